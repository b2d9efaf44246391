#include "batch_feed.hpp"

#include <algorithm>

namespace vmoe {

BatchFeed::Layout BatchFeed::layout_of(const Batches& batches, Index rows, Index classes,
                                       Index pairs) {
  const auto after = [](std::size_t begin, Index values) {
    constexpr std::size_t alignment = 256;  // that of a backend's memory
    const std::size_t end = begin + to_size(values) * sizeof(float);
    return (end + alignment - 1) / alignment * alignment;
  };
  Layout out;
  out.targets = after(0, rows * batches.row_values());
  out.pairs = after(out.targets, rows * classes);
  out.bytes = after(out.pairs, 2 * pairs);
  return out;
}

BatchFeed::BatchFeed(Backend& backend, moxie::Executor& threads, const Batches& batches, Index rows,
                     Index classes, ViewPairs* pairs)
    : backend_(backend),
      threads_(threads),
      batches_(batches),
      rows_(rows),
      classes_(classes),
      pairs_(pairs),
      layout_(layout_of(batches, rows, classes, pairs != nullptr ? pairs->most() : 0)),
      epoch_(batches.epoch(0)) {
  if (pairs_ != nullptr) views_.resize(to_size(rows));
  const int slots = backend_uses_pool ? 1 : 2;
  for (int i = 0; i < slots; ++i)
    slots_.push_back(std::make_unique<Slot>(backend_, layout_.bytes, rows));
}

BatchFeed::~BatchFeed() {
  if (filled_.valid()) filled_.wait();
}

void BatchFeed::fill(std::uint64_t number, Slot& slot) {
  const auto per_epoch = static_cast<std::uint64_t>(batches_.per_epoch());
  if (epoch_.number != number / per_epoch) epoch_ = batches_.epoch(number / per_epoch);
  const auto batch = static_cast<Index>(number % per_epoch);
  std::byte* const host = slot.staging.host();
  const BatchBuffers buffers{
      .images = {reinterpret_cast<float*>(host), to_size(rows_ * batches_.row_values())},
      .targets = {reinterpret_cast<float*>(host + layout_.targets), to_size(rows_ * classes_)},
      .labels = slot.labels,
      .views = views_};
  const Index rows = batches_.rows(batch);
  const Index parts = std::min<Index>(threads_.workers(), rows);
  threads_.run(parts, [&](Index part, int /*worker*/) {
    batches_.fill(epoch_, batch, rows * part / parts, rows * (part + 1) / parts, buffers);
  });
  if (pairs_ != nullptr) {
    const std::span<const std::int32_t> found = (*pairs_)(views_);
    std::copy(found.begin(), found.end(), reinterpret_cast<std::int32_t*>(host + layout_.pairs));
    slot.pairs = static_cast<Index>(found.size() / 2);
  }
  slot.staging.send();
}

void BatchFeed::start(std::uint64_t number) {
  if (backend_uses_pool) return;
  Slot& slot = *slots_[turn_];
  slot.staging.begin();
  started_ = number;
  filled_ = std::async(std::launch::async, [this, number, &slot] { fill(number, slot); });
}

BatchFeed::Batch BatchFeed::take(std::uint64_t number) {
  Slot& slot = *slots_[turn_];
  if (!filled_.valid()) {
    slot.staging.begin();
    fill(number, slot);
  } else {
    filled_.get();
    if (started_ != number) fill(number, slot);
  }
  turn_ = (turn_ + 1) % slots_.size();
  const std::byte* const at = slot.staging.receive();
  Batch out{.inputs = {reinterpret_cast<const float*>(at), rows_, batches_.row_values()},
            .targets = {reinterpret_cast<const float*>(at + layout_.targets), rows_, classes_},
            .pairs = {},
            .labels = slot.labels};
  if (pairs_ != nullptr)
    out.pairs = {reinterpret_cast<const std::int32_t*>(at + layout_.pairs), slot.pairs, 2};
  return out;
}

}  // namespace vmoe
