#pragma once

#include <concepts>

#include "moxie/routing/tensors.hpp"

/// A Capacity says how many slots each expert has in one group.
///
/// Members:
///   Index slots(const CapacityQuery&) const;     the exact value of the rule, never clamped
/// Optional:
///   void order(B&, const Context<B>&, const SparseRouting<B>&, IntVector<B> order, Scratch<B>) const;
///   std::size_t order_bytes(const B&, Index tokens) const;
///       the priority: who gets the slots first (see priority.hpp); without them, the lower token
///
/// Laws: a result below 1 is a config_error of the layer; no expert holds more in a group; masked tokens take none.
namespace moxie {

struct CapacityQuery {
  Index tokens = 0;   ///< S: tokens of a group
  Index choices = 1;  ///< K for token choice, 1 for expert choice and soft
  Index experts = 1;
  Mode mode = Mode::train;
};

template <class C>
concept Capacity = requires(const C& c, const CapacityQuery& q) {
  { c.slots(q) } -> std::same_as<Index>;
};

/// A capacity that also says who is served first.
template <class C, class B>
concept HasPriority = Capacity<C> && requires(const C& c, B& b, const Context<B>& ctx,
                                              const SparseRouting<B>& r, IntVector<B> order,
                                              Scratch<B> scratch, Index tokens) {
  { c.order_bytes(b, tokens) } -> std::same_as<std::size_t>;
  c.order(b, ctx, r, order, scratch);
};

/// One capacity in training, another in evaluation. The priority is the training capacity's in both.
template <Capacity Train, Capacity Eval>
struct TrainEval {
  Train train{};
  Eval eval{};

  TrainEval() = default;
  constexpr TrainEval(Train t, Eval e) : train(t), eval(e) {}

  Index slots(const CapacityQuery& q) const {
    return q.mode == Mode::train ? train.slots(q) : eval.slots(q);
  }
  template <Backend B>
    requires HasPriority<Train, B>
  std::size_t order_bytes(const B& b, Index tokens) const {
    return train.order_bytes(b, tokens);
  }
  template <Backend B>
    requires HasPriority<Train, B>
  void order(B& b, const Context<B>& ctx, const SparseRouting<B>& r, IntVector<B> order,
             Scratch<B> scratch) const {
    train.order(b, ctx, r, order, scratch);
  }
  friend constexpr bool operator==(const TrainEval&, const TrainEval&) = default;
};
template <class Train, class Eval>
TrainEval(Train, Eval) -> TrainEval<Train, Eval>;

}  // namespace moxie
