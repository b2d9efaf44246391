#pragma once

#include <cstdint>
#include <future>
#include <memory>
#include <span>
#include <vector>

#include "backend.hpp"
#include "data/batch.hpp"
#include "moxie/core/executor.hpp"
#include "view_pairs.hpp"

namespace vmoe {

/// Batches in the backend's memory, one after the other. Where the worker threads are free while the backend computes,
/// they make the next batch meanwhile (`start`), and it is copied beside what is computed.
class BatchFeed {
 public:
  struct Batch {
    moxie::ConstMatrix<Backend> inputs;    ///< [rows, row_values]: all that there is room for
    moxie::ConstMatrix<Backend> targets;   ///< [rows, classes]
    moxie::ConstIntMatrix<Backend> pairs;  ///< [N, 2] what Pass::pairs takes, with two views
    std::span<const std::int32_t> labels;  ///< on the host
  };

  /// Room for `rows` rows; those that a batch has not are finite. `pairs` says which tokens of two views correspond. The
  /// references must outlive the object.
  BatchFeed(Backend& backend, moxie::Executor& threads, const Batches& batches, Index rows,
            Index classes, ViewPairs* pairs = nullptr);
  BatchFeed(const BatchFeed&) = delete;
  BatchFeed& operator=(const BatchFeed&) = delete;
  ~BatchFeed();

  /// Batch `number`, counted over all epochs. Valid until the next `take`.
  Batch take(std::uint64_t number);
  /// Batch `number` is the next that is taken.
  void start(std::uint64_t number);

 private:
  /// Memory of one batch.
  struct Slot {
    Slot(Backend& backend, std::size_t bytes, Index rows)
        : staging(backend, bytes), labels(to_size(rows)) {}
    Staging staging;
    std::vector<std::int32_t> labels;
    Index pairs = 0;
  };
  /// Where the parts of a batch lie.
  struct Layout {
    std::size_t targets = 0, pairs = 0, bytes = 0;
  };
  static Layout layout_of(const Batches& batches, Index rows, Index classes, Index pairs);

  void fill(std::uint64_t number, Slot& slot);

  Backend& backend_;
  moxie::Executor& threads_;
  const Batches& batches_;
  Index rows_, classes_;
  ViewPairs* pairs_;
  Layout layout_;
  Batches::Epoch epoch_;
  std::vector<moxie::ImageView> views_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::size_t turn_ = 0;       // slot of the next batch
  std::future<void> filled_;   // of the batch that was started
  std::uint64_t started_ = 0;  // its number
};

}  // namespace vmoe
