#pragma once

#include "moxie/layer/concept.hpp"
#include "moxie/train/batch.hpp"

/// An Objective is a training loss that runs whatever passes of a model it needs: Supervised needs
/// one, adversarial objectives several.
///
/// A policy is a plain struct of hyper-parameters. What a step needs besides is a `State<M>`: tapes,
/// scores, losses.
///
/// Members:
///   template <Layer M> struct State
///   void bind(Arena<B>&, const M&, Index images, State<M>&) const   memory for up to `images`
///   void accumulate(const M&, const Batch<B>&, State<M>&, const Pass<B>&) const
///
/// Laws:
///  * `accumulate` adds the gradient of the mean loss over the batch to the gradients of the
///    model's parameters and changes nothing else outside its state; it never allocates;
///  * `bind` only moves pointers, in the order of execution;
///  * a wrong shape is a shape_error before anything is written.
namespace moxie {

namespace detail {
template <class O, class M>
concept HasObjectiveState = requires {
  typename O::template State<M>;
}
&&requires(const O& objective, Arena<typename M::BackendType>& arena, const M& model, Index images,
           typename O::template State<M>& state) {
  objective.bind(arena, model, images, state);
};
template <class O, class M>
concept HasAccumulate = requires(const O& objective, const M& model,
                                 const Batch<typename M::BackendType>& batch,
                                 typename O::template State<M>& state,
                                 const Pass<typename M::BackendType>& pass) {
  objective.accumulate(model, batch, state, pass);
};
}  // namespace detail

template <class O, class M>
concept Objective =
    Layer<M> && std::copyable<O> && detail::HasObjectiveState<O, M> && detail::HasAccumulate<O, M>;

/// An objective's state with its memory. It must not outlive the model's backend.
template <Layer M, Objective<M> O>
class OwnedObjectiveState {
  using B = typename M::BackendType;

 public:
  /// Room for batches of up to `images`.
  OwnedObjectiveState(const O& objective, const M& model, Index images)
      : memory_(model.parameters().backend(), bytes_of(objective, model, images)) {
    Arena<B> arena(Gradients::all, memory_.data(), memory_.bytes());
    objective.bind(arena, model, images, state_);
  }
  typename O::template State<M>* operator->() { return &state_; }
  typename O::template State<M>& operator*() { return state_; }
  const typename O::template State<M>& operator*() const { return state_; }
  std::size_t bytes() const noexcept { return memory_.bytes(); }

 private:
  static std::size_t bytes_of(const O& objective, const M& model, Index images) {
    Arena<B> arena(Gradients::all);
    typename O::template State<M> state;
    objective.bind(arena, model, images, state);
    return arena.peak();
  }
  Memory<B> memory_;
  typename O::template State<M> state_;
};

}  // namespace moxie
