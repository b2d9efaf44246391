#pragma once

#include "moxie/capacity/priority.hpp"

namespace moxie {

namespace detail {
template <Backend B, Capacity C>
std::size_t order_bytes_of(const C& capacity, const B& b, Index tokens) {
  if constexpr (HasPriority<C, B>) {
    return capacity.order_bytes(b, tokens);
  } else {
    return 0;
  }
}
template <Backend B, Capacity C>
void order_of(const C& capacity, B& b, const Context<B>& ctx, const SparseRouting<B>& r,
              IntVector<B> order, Scratch<B> scratch) {
  if constexpr (HasPriority<C, B>) {
    capacity.order(b, ctx, r, order, scratch);
  } else {
    TokenPriority{}.order(b, ctx, r, order, scratch);
  }
}
}  // namespace detail

/// One capacity in training, another in evaluation, each with its own priority (the lower token
/// first where a side has none): `TrainEval{CapacityFactor{}, WithPriority{BatchPriority{},
/// CapacityFactor{.factor = 0.5}}}`. The overflow policy is one for both: that of `WithOverflow{policy,
/// TrainEval{...}}`, or of the training capacity.
template <Capacity Train, Capacity Eval>
struct TrainEval {
  static_assert(
      !requires(const Eval& e) { e.reroutes(); } &&
          !requires(const Eval& e) { e.returns_dropped(); },
      "moxie::TrainEval: the overflow policy is one for training and evaluation: write "
      "WithOverflow{policy, TrainEval{train, eval}}");

  Train train{};
  Eval eval{};

  TrainEval() = default;
  constexpr TrainEval(Train t, Eval e) : train(t), eval(e) {}

  Index slots(const CapacityQuery& q) const {
    return q.mode == Mode::train ? train.slots(q) : eval.slots(q);
  }
  template <Backend B>
  requires(HasPriority<Train, B> || HasPriority<Eval, B>) std::size_t
      order_bytes(const B& b, Index tokens)
  const {
    const std::size_t in_training = detail::order_bytes_of(train, b, tokens);
    const std::size_t in_evaluation = detail::order_bytes_of(eval, b, tokens);
    return in_training > in_evaluation ? in_training : in_evaluation;
  }
  template <Backend B>
  requires(HasPriority<Train, B> ||
           HasPriority<Eval, B>) void order(B& b, const Context<B>& ctx, const SparseRouting<B>& r,
                                            IntVector<B> order, Scratch<B> scratch) const {
    if (ctx.mode == Mode::train) {
      detail::order_of(train, b, ctx, r, order, scratch);
    } else {
      detail::order_of(eval, b, ctx, r, order, scratch);
    }
  }
  bool reroutes() const requires requires(const Train& t) { t.reroutes(); }
  { return train.reroutes(); }
  template <Backend B>
  requires HasReroute<Train, B>
  void reroute(B& b, const Context<B>& ctx, const FirstPass<B>& first, SparseRouting<B>& r) const {
    train.reroute(b, ctx, first, r);
  }
  bool returns_dropped() const { return moxie::returns_dropped(train); }
  constexpr bool dropless(Mode mode) const {
    return mode == Mode::train ? is_dropless(train, mode) : is_dropless(eval, mode);
  }
  friend constexpr bool operator==(const TrainEval&, const TrainEval&) = default;
};
template <class Train, class Eval>
TrainEval(Train, Eval) -> TrainEval<Train, Eval>;

}  // namespace moxie
