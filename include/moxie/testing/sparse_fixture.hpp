#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "moxie/capacity/assign.hpp"
#include "moxie/testing/law_report.hpp"

namespace moxie::testing {

/// Sparse routing tensors with their memory and a context, for tests of one policy without a layer
/// around it.
///
///   SparseFixture<B> f{backend, {.tokens = 1, .experts = 4, .choices = 2}};
///   f.set_logits({1, 1, 1, 1});
///   router.route(backend, f.context, f.routing);
///   CHECK(f.choices() == std::vector<std::int32_t>{0, 1});
///
/// Memory starts with numbers that make no sense, so that reading what was never written is seen.
/// Sizes of the shape that are left 0 become what a layer would choose: one group, a capacity
/// without drops.
template <Backend B>
class SparseFixture {
 public:
  using T = typename B::Scalar;

  Context<B> context;
  SparseRouting<B> routing;
  RoutingGradients<SparseRouting<B>> gradients;

  SparseFixture(B& b, RoutingShape shape, RoutingTraits traits = {})
      : backend_(&b), noisy_(traits.noisy) {
    if (shape.group == 0) shape.group = shape.tokens;
    if (shape.capacity == 0) shape.capacity = shape.group;
    if (shape.assignments == 0) shape.assignments = shape.tokens * shape.choices;
    const Index slots = shape.capacity < shape.group ? shape.capacity : shape.group;
    if (const Index most = shape.groups() * shape.experts * slots; shape.rows == 0)
      shape.rows = shape.assignments < most ? shape.assignments : most;
    Arena<B> measured(Gradients::all);
    bind(measured, shape, traits);
    memory_ = Memory<B>(b, measured.peak());
    const std::vector<unsigned char> nonsense(measured.peak(), 0x7f);
    b.copy_from_host(memory_.data(), nonsense.data(), nonsense.size());
    Arena<B> arena(Gradients::all, memory_.data(), memory_.bytes());
    bind(arena, shape, traits);
    context.shape = shape;
    set_mode(Mode::train);
    zero_gradients();
  }
  SparseFixture(const SparseFixture&) = delete;
  SparseFixture& operator=(const SparseFixture&) = delete;

  const RoutingShape& shape() const { return routing.shape; }
  /// Noise is a matter of training: in evaluation the noisy tensors are the clean ones.
  void set_mode(Mode mode) {
    context.mode = mode;
    routing.resize(context.shape, noisy_ && mode == Mode::train);
    gradients.noisy_probs = routing.noisy() ? noisy_probs_ : gradients.probs;
  }
  void set_logits(const std::vector<double>& v) { detail::from_host(*backend_, routing.logits, v); }
  void set_noisy_logits(const std::vector<double>& v) {
    detail::from_host(*backend_, routing.noisy_logits, v);
  }
  void set_probs(const std::vector<double>& v) { detail::from_host(*backend_, routing.probs, v); }
  void set_choices(const std::vector<std::int32_t>& v) {
    detail::from_host(*backend_, routing.choice, v);
  }
  void set_weights(const std::vector<double>& v) {
    detail::from_host(*backend_, routing.weight, v);
  }
  /// One number a token, 0 = padding; empty: every token counts.
  void set_mask(const std::vector<std::int32_t>& v) {
    mask_ = Buffer<B, std::int32_t>(*backend_, static_cast<Index>(v.size()));
    detail::from_host(*backend_, mask_.view(), v);
    context.mask = v.empty() ? ConstIntVector<B>() : ConstIntVector<B>(mask_.view());
  }
  /// [N, 2] tokens that correspond, one pair after another.
  void set_pairs(const std::vector<std::int32_t>& v) {
    pairs_ = Buffer<B, std::int32_t>(*backend_, static_cast<Index>(v.size()));
    detail::from_host(*backend_, pairs_.view(), v);
    context.pairs = ConstIntMatrix<B>(pairs_.view().data, static_cast<Index>(v.size()) / 2, 2);
  }
  /// assign_slots with the shape's capacity; `priority` as there.
  template <class C>
  void assign(const C& priority) {
    std::size_t order_bytes = 0;
    if constexpr (HasPriority<C, B>) order_bytes = priority.order_bytes(*backend_, shape().tokens);
    Arena<B> measured(Gradients::all);
    AssignMemory<B> memory;
    memory.bind(measured, *backend_, shape(), shape().groups(), order_bytes);
    const Memory<B> bytes(*backend_, measured.peak());
    Arena<B> arena(Gradients::all, bytes.data(), bytes.bytes());
    memory.bind(arena, *backend_, shape(), shape().groups(), order_bytes);
    assign_slots(*backend_, context, priority, shape().capacity, memory, routing);
  }
  void zero_gradients() {
    // a named array: nvcc cannot pass a list of these on to the host's compiler
    const Matrix<B> all[] = {gradients.logits, gradients.probs, noisy_probs_, gradients.plan,
                             gradients.weight};
    for (const Matrix<B>& m : all)
      if (m) backend_->fill(Vector<B>(m.data, m.size()), T(0));
  }

  std::vector<std::int32_t> choices() const { return detail::to_host(*backend_, routing.choice); }
  std::vector<T> weights() const { return detail::to_host(*backend_, routing.weight); }
  std::vector<T> probs() const { return detail::to_host(*backend_, routing.probs); }
  std::vector<T> plan() const { return detail::to_host(*backend_, routing.plan); }
  std::vector<T> noisy_logits() const { return detail::to_host(*backend_, routing.noisy_logits); }
  std::vector<T> noisy_probs() const { return detail::to_host(*backend_, routing.noisy_probs); }
  std::vector<std::int32_t> slots() const { return detail::to_host(*backend_, routing.slot); }
  std::vector<std::int32_t> rows() const { return detail::to_host(*backend_, routing.row); }
  std::vector<std::int32_t> tokens() const { return detail::to_host(*backend_, routing.token); }
  std::vector<std::int32_t> assignments() const {
    return detail::to_host(*backend_, routing.assignment);
  }
  std::vector<std::int32_t> offsets() const { return detail::to_host(*backend_, routing.offset); }
  std::vector<T> d_logits() const { return detail::to_host(*backend_, gradients.logits); }

 private:
  void bind(Arena<B>& arena, const RoutingShape& shape, const RoutingTraits& traits) {
    routing.bind(arena, shape, traits);
    gradients.logits = arena.template saved<T>(shape.tokens, shape.experts);
    gradients.probs = arena.template saved<T>(shape.tokens, shape.experts);
    noisy_probs_ = arena.template saved<T>(shape.tokens, shape.experts);
    if (traits.plan) gradients.plan = arena.template saved<T>(shape.tokens, shape.experts);
    gradients.weight = arena.template saved<T>(routing.weight.rows, routing.weight.cols);
  }

  B* backend_;
  bool noisy_;
  Memory<B> memory_;
  Buffer<B, std::int32_t> mask_, pairs_;
  Matrix<B> noisy_probs_;
};

}  // namespace moxie::testing
