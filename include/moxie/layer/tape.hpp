#pragma once

#include "moxie/layer/concept.hpp"

namespace moxie {

/// Bytes that a tape of `layer` takes for passes of up to `rows` rows.
template <Layer L>
std::size_t tape_bytes(const L& layer, Index rows, Gradients gradients) {
  if (rows < 0) throw_shape("moxie::make_tape: rows is ", rows, ", expected >= 0");
  Arena<typename L::BackendType> arena(gradients);
  typename L::Tape tape;
  layer.bind(arena, rows, tape);
  return arena.peak();
}

/// A tape with its memory, for the outermost layer of a model. It keeps nothing of the layer but must not
/// outlive its backend.
template <
    class
    L>  // a Layer; checked below, since a layer's own `make_tape` names this type while incomplete
class OwnedTape {
  using B = typename L::BackendType;

 public:
  /// Room for passes of up to `rows` rows, with at most the given gradients.
  OwnedTape(const L& layer, Index rows, Gradients gradients)
      : memory_(layer.parameters().backend(), tape_bytes(layer, rows, gradients)) {
    static_assert(Layer<L>, "moxie: a tape is made for a Layer (layer/concept.hpp)");
    Arena<B> arena(gradients, memory_.data(), memory_.bytes());
    layer.bind(arena, rows, tape_);
  }
  operator typename L::Tape &() { return tape_; }  // NOLINT(google-explicit-constructor)
  typename L::Tape* operator->() { return &tape_; }
  typename L::Tape& operator*() { return tape_; }
  std::size_t bytes() const noexcept { return memory_.bytes(); }

 private:
  Memory<B> memory_;
  typename L::Tape tape_;
};

template <Layer L>
OwnedTape<L> make_tape(const L& layer, Index rows, Gradients gradients = Gradients::all) {
  return {layer, rows, gradients};
}

}  // namespace moxie
