#pragma once

#include <cstddef>

#include "moxie/backend/concept.hpp"
#include "moxie/core/error.hpp"

namespace moxie {

/// What a backward pass will be asked for: nothing, the gradient of the input, or of the parameters as well.
enum class Gradients { none, input, all };

/// Hands out memory to the tapes of layers. It has two ends: what is *saved* for the backward grows from below
/// and stays; *scratch* grows from above and goes with its Scope, so that layers which run one after the other
/// share it. Without gradients nothing needs saving, and what would be saved becomes scratch.
///
/// An arena made without memory only measures: it hands out null views of the right shape, and `peak()` says
/// how much a real one needs. Binding twice, first measured and then real, gives the same offsets.
template <Backend B>
class Arena {
 public:
  /// Measures.
  explicit Arena(Gradients gradients)
      : gradients_(gradients), measuring_(true), top_(limit), lowest_top_(limit), bytes_(limit) {}
  /// Hands out `bytes` bytes at `base`, which is aligned to 256.
  Arena(Gradients gradients, std::byte* base, std::size_t bytes)
      : gradients_(gradients), base_(base), top_(bytes), lowest_top_(bytes), bytes_(bytes) {}

  Gradients gradients() const noexcept { return gradients_; }
  bool wants_input() const noexcept { return gradients_ != Gradients::none; }
  bool wants_weights() const noexcept { return gradients_ == Gradients::all; }
  /// The most bytes that were in use at a time.
  std::size_t peak() const noexcept { return peak_; }

  /// Gone when the Scope it was taken in ends.
  template <class T>
  MatrixView<T, typename B::Space> scratch(Index rows, Index cols) {
    return {take<T>(rows * cols, true), rows, cols};
  }
  template <class T>
  VectorView<T, typename B::Space> scratch(Index size) {
    return {take<T>(size, true), size};
  }
  Scratch<B> scratch_bytes(std::size_t bytes) {
    const auto n = static_cast<Index>(bytes);
    return {take<std::byte>(n, true), n};
  }
  /// Lives until the backward; scratch if no gradient is wanted.
  template <class T>
  MatrixView<T, typename B::Space> saved(Index rows, Index cols) {
    return {take<T>(rows * cols, !wants_input()), rows, cols};
  }
  template <class T>
  VectorView<T, typename B::Space> saved(Index size) {
    return {take<T>(size, !wants_input()), size};
  }
  /// The same for what only the gradients of parameters need.
  template <class T>
  MatrixView<T, typename B::Space> saved_for_weights(Index rows, Index cols) {
    return {take<T>(rows * cols, !wants_weights()), rows, cols};
  }
  /// Lives as long as the tape, whatever gradients are wanted: routes, losses, statistics. A backward writes to the
  /// scratch of earlier layers again, which what is merely saved by a later layer may overlap and this may not.
  template <class T>
  MatrixView<T, typename B::Space> kept(Index rows, Index cols) {
    return {take<T>(rows * cols, false, lowest_top_), rows, cols};
  }
  template <class T>
  VectorView<T, typename B::Space> kept(Index size) {
    return {take<T>(size, false, lowest_top_), size};
  }
  /// An arena inside this one, for parts whose sizes are known only at run time (whole networks as experts).
  Arena block(std::size_t bytes) {
    std::byte* base = take<std::byte>(static_cast<Index>(bytes), !wants_input());
    return measuring_ ? Arena(gradients_) : Arena(gradients_, base, bytes);
  }
  /// Forgets all that was handed out.
  void rewind() noexcept {
    used_ = 0;
    top_ = lowest_top_ = bytes_;
  }

  /// Gives back the scratch taken since it was made.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), top_(arena.top_) {}
    ~Scope() { arena_.top_ = top_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    std::size_t top_;
  };

 private:
  static constexpr std::size_t limit = std::size_t{1} << 62U;
  static constexpr std::size_t alignment = 256;

  template <class T>
  T* take(Index count, bool from_above) {
    return take<T>(count, from_above, top_);
  }
  template <class T>
  T* take(Index count, bool from_above, std::size_t end) {
    return reinterpret_cast<T*>(
        take_bytes(static_cast<std::size_t>(count) * sizeof(T), from_above, end));
  }
  /// Below `end`, which is top_ or less. One function for all that is bound, in no place that matters.
  [[gnu::noinline]] std::byte* take_bytes(std::size_t wanted, bool from_above, std::size_t end) {
    const std::size_t bytes = (wanted + alignment - 1) / alignment * alignment;
    if (end < used_ || bytes > end - used_)
      throw_shape("moxie::Arena: exhausted: ", bytes, " bytes wanted, ",
                  end < used_ ? 0 : end - used_, " of ", bytes_, " left",
                  measuring_ ? "; is the number of rows right?"
                             : "; was the tape bound for fewer rows than this pass has?");
    std::size_t at = used_;
    if (from_above) {
      at = top_ -= bytes;
      if (top_ < lowest_top_) lowest_top_ = top_;
      end = top_;
    } else {
      used_ += bytes;
    }
    const std::size_t in_use = used_ + (bytes_ - end);
    if (in_use > peak_) peak_ = in_use;
    return measuring_ ? nullptr : base_ + at;
  }

  Gradients gradients_ = Gradients::all;
  bool measuring_ = false;
  std::byte* base_ = nullptr;
  std::size_t used_ = 0;
  std::size_t top_ = 0;
  std::size_t lowest_top_ = 0;  // so far: all scratch there ever was lies above it
  std::size_t bytes_ = 0;
  std::size_t peak_ = 0;
};

}  // namespace moxie
