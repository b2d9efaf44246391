#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "axes.hpp"
#include "logits.hpp"
#include "moxie/capacity/assign.hpp"
#include "moxie/ops/first_non_finite.hpp"
#include "moxie/router/bias.hpp"
#include "moxie/routing/record.hpp"

namespace bench {

/// What MoeLayer does between its input and its dispatch, and nothing else: gate, router, slots. The same calls in the same
/// order, in training, with memory that was taken before.
class RoutingAlone {
 public:
  RoutingAlone() = default;
  RoutingAlone(const RoutingAlone&) = delete;
  RoutingAlone& operator=(const RoutingAlone&) = delete;
  virtual ~RoutingAlone() = default;

  virtual void set_logits(
      const std::vector<float>& logits) = 0;       ///< [T, E], what route() then sees
  virtual void gate(moxie::ConstMatrix<B> x) = 0;  ///< logits from x, and their check
  virtual void route() = 0;                        ///< router and slots, from the logits
  /// d(logits) from constant gradients of what the router made.
  virtual void route_backward() = 0;
  virtual void gate_backward(moxie::ConstMatrix<B> x, moxie::Matrix<B> dx) = 0;  ///< dx +=
  virtual void visit(moxie::RoutingVisitor<B>& visitor) = 0;
  virtual const moxie::RoutingShape& shape() const = 0;
  /// Slots are mixtures of tokens: each is computed, and none is an assignment (soft).
  virtual bool mixes() const = 0;
  /// The gate multiplies x by a matrix.
  virtual bool has_gate() const = 0;
  /// Experts of each token, ascending, before drops; empty where nothing is chosen (soft).
  virtual std::vector<std::vector<std::int32_t>> expert_sets() const = 0;
};

template <class R, class G>
class RoutingAloneOf final : public RoutingAlone {
  using Routing = moxie::RoutingOf<R, B>;
  static constexpr bool soft = std::same_as<Routing, moxie::SoftRouting<B>>;

 public:
  RoutingAloneOf(B& b, R router, G gate, const moxie::ConfiguredCapacity& capacity, Index tokens,
                 const moxie::MoeShape& shape)
      : b_(&b), router_(std::move(router)), gate_(std::move(gate)), capacity_(capacity) {
    moxie::RoutingShape& s = context_.shape;
    s = {.tokens = tokens,
         .experts = shape.experts,
         .choices = router_.choices(shape.experts),
         .group = shape.group};
    s.capacity = capacity_.slots({.tokens = s.group,
                                  .choices = s.choices,
                                  .experts = s.experts,
                                  .mode = moxie::Mode::train});
    s.assignments = router_.assignments(s);
    const Index most = s.groups() * s.experts * (soft ? s.capacity : std::min(s.capacity, s.group));
    s.rows = soft ? most : std::min(most, s.assignments);
    gate_shape_ = {shape.width, shape.experts, soft ? s.capacity : 1};
    gate_.declare(scope_, gate_shape_, gate_state_);
    if constexpr (requires { router_.bias_rate(); })
      bias_.declare(scope_, shape.experts, router_.bias_rate());
    scope_.parameters->initialize(1);
    has_gate_ = set_gates(*scope_.parameters, shape.experts);

    moxie::Arena<B> measured(moxie::Gradients::all);
    bind(measured);
    memory_ = moxie::Memory<B>(b, measured.peak());
    moxie::Arena<B> arena(moxie::Gradients::all, memory_.data(), memory_.bytes());
    bind(arena);
    routing_.resize(s, noisy());
    if constexpr (!soft) routing_.bias = bias_.bias(*scope_.parameters);
    for (moxie::Matrix<B>* m : from_dispatch(d_))
      given_.push_back(normal_numbers(m->size(), 5 + given_.size()));
  }

  void set_logits(const std::vector<float>& logits) override {
    const Index experts = context_.shape.experts;
    const Index slots = routing_.logits.cols / experts;
    for (Index t = 0; t < routing_.logits.rows; ++t)
      for (Index c = 0; c < routing_.logits.cols; ++c)
        routing_.logits(t, c) = logits[static_cast<std::size_t>(t * experts + c / slots)];
  }
  void gate(moxie::ConstMatrix<B> x) override {
    gate_.forward(*b_, context_, *scope_.parameters, gate_state_, x, routing_.logits, gate_tape_);
    moxie::first_non_finite(*b_,
                            moxie::ConstVector<B>(routing_.logits.data, routing_.logits.size()),
                            routing_.status, check_);
  }
  void route() override {
    router_.route(*b_, context_, routing_);
    if constexpr (!soft) {
      if (!routing_.first &&
          moxie::assign_slots(*b_, context_, capacity_, context_.shape.capacity, assign_, routing_))
        router_.weigh(*b_, context_, routing_);
    }
  }
  void route_backward() override {
    moxie::RoutingGradients<Routing> d = d_.begin(*b_, routing_);
    std::size_t i = 0;
    for (moxie::Matrix<B>* m : from_dispatch(d)) {
      b_->copy(m->data, given_[i].data(), static_cast<std::size_t>(m->size()) * sizeof(float));
      ++i;
    }
    router_.route_backward(*b_, context_, routing_, d);
  }
  void gate_backward(moxie::ConstMatrix<B> x, moxie::Matrix<B> dx) override {
    gate_.backward(*b_, context_, *scope_.parameters, gate_state_, x,
                   moxie::ConstMatrix<B>(d_.logits), dx, true, gate_tape_);
  }
  void visit(moxie::RoutingVisitor<B>& visitor) override {
    if constexpr (soft) {
      visitor.soft(routing_);
    } else {
      visitor.sparse(routing_);
    }
  }
  const moxie::RoutingShape& shape() const override { return context_.shape; }
  bool mixes() const override { return soft; }
  bool has_gate() const override { return has_gate_; }
  std::vector<std::vector<std::int32_t>> expert_sets() const override {
    std::vector<std::vector<std::int32_t>> sets;
    if constexpr (!soft) {
      sets.resize(static_cast<std::size_t>(context_.shape.tokens));
      for (Index t = 0; t < context_.shape.tokens; ++t) {
        auto& set = sets[static_cast<std::size_t>(t)];
        for (Index a = routing_.begin(t); a < routing_.end(t); ++a)
          if (routing_.choice.data[a] >= 0) set.push_back(routing_.choice.data[a]);
        std::sort(set.begin(), set.end());
      }
    }
    return sets;
  }

 private:
  bool noisy() const {
    if constexpr (requires { router_.noisy(); }) return router_.noisy();
    return false;
  }
  /// The gradients that a dispatcher would write.
  static std::vector<moxie::Matrix<B>*> from_dispatch(moxie::RoutingGradients<Routing>& d) {
    if constexpr (soft) {
      return {&d.dispatch, &d.combine};
    } else {
      return {&d.weight};
    }
  }
  void bind(moxie::Arena<B>& arena) {
    const moxie::RoutingShape& s = context_.shape;
    const moxie::RoutingTraits traits = moxie::routing_traits(router_, *b_, s);
    routing_.bind(arena, s, traits);
    gate_.bind(*b_, arena, gate_shape_, s.tokens, gate_tape_);
    check_ = arena.scratch_bytes(moxie::first_non_finite_bytes(s.tokens * gate_shape_.columns()));
    if constexpr (!soft)
      if (!traits.ragged)
        assign_.bind(arena, *b_, s, s.groups(), capacity_.order_bytes(*b_, s.tokens));
    d_.bind(arena, routing_, traits);
  }

  B* b_;
  R router_;
  G gate_;
  moxie::ConfiguredCapacity capacity_;
  moxie::Scope<B> scope_ = moxie::root(*b_);
  moxie::GateShape gate_shape_;
  typename G::template State<B> gate_state_;
  typename G::template Tape<B> gate_tape_;
  moxie::BiasState<B> bias_;
  moxie::Memory<B> memory_;
  moxie::Context<B> context_;
  Routing routing_;
  moxie::RoutingGradients<Routing> d_;
  moxie::AssignMemory<B> assign_;
  moxie::Scratch<B> check_;
  std::vector<std::vector<float>> given_;
  bool has_gate_ = false;
};

inline std::unique_ptr<RoutingAlone> make_routing_alone(const Case& c, const Setup& setup) {
  const moxie::MoeConfig config = config_of(c, setup.options);
  const moxie::ConfiguredCapacity capacity = moxie::make_capacity(config.capacity);
  if (c.router == "soft")
    return std::make_unique<RoutingAloneOf<moxie::SoftRouter, moxie::SlotGate>>(
        setup.backend, moxie::SoftRouter{}, moxie::SlotGate{.cosine = config.router.cosine},
        capacity, c.tokens, config.shape);
  const moxie::AnyRouter<B> router = setup.registry.make(config.router);
  return std::make_unique<RoutingAloneOf<moxie::AnyRouter<B>, moxie::AnyGate<B>>>(
      setup.backend, router,
      router.own_gate() ? *router.own_gate() : moxie::make_gate<B>(config.router), capacity,
      c.tokens, config.shape);
}

}  // namespace bench
