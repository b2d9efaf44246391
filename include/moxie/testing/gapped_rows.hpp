#pragma once

#include <cstddef>
#include <vector>

#include "moxie/core/memory.hpp"
#include "moxie/core/view.hpp"

namespace moxie::testing::detail {

/// Rows of a matrix in the backend's memory, `gap` elements apart, which hold a number no layer
/// should touch.
template <Backend B>
class GappedRows {
 public:
  GappedRows(B& backend, Index rows, Index cols, Index gap)
      : backend_(backend),
        rows_(rows),
        cols_(cols),
        stride_(cols + gap),
        memory_(backend, rows * (cols + gap)) {
    set(std::vector<double>(static_cast<std::size_t>(rows * cols), untouched));
  }
  Matrix<B> view() const { return {memory_.view().data, rows_, cols_, stride_}; }
  void set(const std::vector<double>& values) {
    std::vector<double> host(static_cast<std::size_t>(rows_ * stride_), untouched);
    for (Index i = 0; i < rows_ * cols_; ++i)
      host[static_cast<std::size_t>(i / cols_ * stride_ + i % cols_)] =
          values[static_cast<std::size_t>(i)];
    backend_.copy_from_host(memory_.view().data, host.data(), host.size() * sizeof(double));
  }
  std::vector<double> get() const {
    const std::vector<double> host = all();
    std::vector<double> values;
    for (Index i = 0; i < rows_ * cols_; ++i)
      values.push_back(host[static_cast<std::size_t>(i / cols_ * stride_ + i % cols_)]);
    return values;
  }
  bool gaps_untouched() const {
    const std::vector<double> host = all();
    for (Index i = 0; i < rows_ * stride_; ++i)
      if (i % stride_ >= cols_ && host[static_cast<std::size_t>(i)] != untouched) return false;
    return true;
  }
  void put(Index i, double value) {
    backend_.copy_from_host(memory_.view().data + i / cols_ * stride_ + i % cols_, &value,
                            sizeof(double));
  }

  // finite, so that a sum over it is seen in a result
  static constexpr double untouched = 1.2345e300;

 private:
  std::vector<double> all() const {
    std::vector<double> host(static_cast<std::size_t>(rows_ * stride_));
    backend_.copy_to_host(host.data(), memory_.view().data, host.size() * sizeof(double));
    return host;
  }
  B& backend_;
  Index rows_, cols_, stride_;
  Buffer<B, double> memory_;
};

}  // namespace moxie::testing::detail
