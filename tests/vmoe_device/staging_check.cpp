// The feed of batches to a GPU, vmoe::BatchFeed over vmoe::CudaStaging, on a runtime of threads (fake_cuda): does the device
// read the batches that were meant, and is the next one copied meanwhile? With an argument, the runtime leaves out that wait.
// Ends with 0 if all is right, 1 if not, 2 for arguments it does not know.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "batch_feed.hpp"
#include "data/batch.hpp"
#include "moxie/backend/thread_pool.hpp"

namespace moxie::test::staging_check {
namespace {

using vmoe::Index;
using vmoe::to_size;

constexpr Index rows = 8, classes = 3;
constexpr std::uint64_t batches_taken = 8;

/// Value k of image i is (31 i + 7 k) mod 256, its label i mod 3.
vmoe::ImageSet make_set() {
  vmoe::ImageSet set{.count = 5 * rows, .shape = {8, 8, 3}, .pixels = {}, .labels = {}};
  for (Index i = 0; i < set.count; ++i) {
    for (Index k = 0; k < set.shape.values(); ++k)
      set.pixels.push_back(static_cast<std::uint8_t>(31 * i + 7 * k));
    set.labels.push_back(static_cast<std::int32_t>(i % classes));
  }
  return set;
}

struct Numbers {
  explicit Numbers(const vmoe::Batches& batches)
      : inputs(to_size(rows * batches.row_values())),
        targets(to_size(rows * classes)),
        labels(to_size(rows)) {}
  std::vector<float> inputs, targets;
  std::vector<std::int32_t> labels;

  friend bool operator==(const Numbers&, const Numbers&) = default;
};

/// What a kernel does: reads one part of its batch when it begins, and the other when it ends.
void read_batch(const vmoe::BatchFeed::Batch& batch, Numbers& to, std::atomic<int>& overlapped) {
  const int copies = fake_cuda::copies_done.load(std::memory_order_relaxed);
  std::memcpy(to.inputs.data(), batch.inputs.data, to.inputs.size() * sizeof(float));
  fake_cuda::take_long(40);
  std::memcpy(to.targets.data(), batch.targets.data, to.targets.size() * sizeof(float));
  if (fake_cuda::copies_done.load(std::memory_order_relaxed) > copies)
    overlapped.fetch_add(1, std::memory_order_relaxed);
}

int check() {
  const vmoe::ImageSet set = make_set();
  const vmoe::Batches batches(set, classes, vmoe::measure_normalization(set),
                              {.batch_size = rows, .seed = 1}, vmoe::Batches::Use::train);
  const auto per_epoch = static_cast<std::uint64_t>(batches.per_epoch());
  std::vector<Numbers> wanted, found(batches_taken, Numbers(batches));
  std::atomic<int> overlapped = 0;
  {
    vmoe::Backend backend;
    ThreadPool threads(2);
    vmoe::BatchFeed feed(backend, threads, batches, rows, classes);
    for (std::uint64_t n = 0; n < batches_taken; ++n) {
      const vmoe::BatchFeed::Batch batch = feed.take(n);
      feed.start(n == 4 ? 0 : n + 1);  // once, another one is taken than was started
      Numbers& own = found[n];
      own.labels.assign(batch.labels.begin(), batch.labels.end());
      backend.leaf().stream()->enqueue(
          [batch, &own, &overlapped] { read_batch(batch, own, overlapped); });

      Numbers& right = wanted.emplace_back(batches);
      batches.fill(batches.epoch(n / per_epoch), static_cast<Index>(n % per_epoch),
                   {.images = right.inputs, .targets = right.targets, .labels = right.labels});
    }
    // The feed goes while the last batches are computed, and the next one is made and copied.
  }
  int wrong = 0;
  for (std::uint64_t n = 0; n < batches_taken; ++n) {
    if (found[n] == wanted[n]) continue;
    std::printf("batch %llu is not what the device read\n", static_cast<unsigned long long>(n));
    ++wrong;
  }
  if (overlapped == 0) {
    std::puts("nothing was copied while the device computed");
    ++wrong;
  }
  return wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace moxie::test::staging_check

int main(int count, char** arguments) {
  using fake_cuda::Forgotten;
  const std::map<std::string, Forgotten> waits = {{"copies_for_use", Forgotten::copies_for_use},
                                                  {"use_for_copies", Forgotten::use_for_copies},
                                                  {"host_for_copies", Forgotten::host_for_copies},
                                                  {"end_for_copies", Forgotten::end_for_copies}};
  if (count > 1) {
    const auto found = waits.find(arguments[1]);
    if (count > 2 || found == waits.end()) return 2;
    fake_cuda::forgotten = found->second;
  }
  return moxie::test::staging_check::check();
}
