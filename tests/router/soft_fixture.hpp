#pragma once

#include <vector>

#include "moxie/routing/soft.hpp"
#include "moxie/testing/law_report.hpp"

namespace moxie::test {

/// Soft routing tensors with their memory and a context, for tests of one policy without a layer
/// around it. The shape's capacity is P.
template <Backend B>
class SoftFixture {
 public:
  using T = typename B::Scalar;

  Context<B> context;
  SoftRouting<B> routing;
  RoutingGradients<SoftRouting<B>> gradients;

  SoftFixture(B& b, RoutingShape shape) : backend_(&b) {
    if (shape.group == 0) shape.group = shape.tokens;
    shape.choices = 1;
    shape.rows = shape.groups() * shape.experts * shape.capacity;
    Arena<B> measured(Gradients::all);
    bind(measured, shape);
    memory_ = Memory<B>(b, measured.peak());
    Arena<B> arena(Gradients::all, memory_.data(), memory_.bytes());
    bind(arena, shape);
    context.shape = shape;
    zero_gradients();
  }

  Index columns() const { return routing.logits.cols; }
  void set(Matrix<B> m, const std::vector<double>& v) {
    testing::detail::from_host(*backend_, m, v);
  }
  void set_mask(const std::vector<std::int32_t>& v) {
    mask_ = moxie::Buffer<B, std::int32_t>(*backend_, static_cast<Index>(v.size()));
    testing::detail::from_host(*backend_, mask_.view(), v);
    context.mask = v.empty() ? ConstIntVector<B>() : ConstIntVector<B>(mask_.view());
  }
  std::vector<T> get(Matrix<B> m) const { return testing::detail::to_host(*backend_, m); }
  void zero_gradients() {
    for (const Matrix<B>& m :
         {gradients.logits, gradients.dispatch, gradients.combine, gradients.probs})
      backend_->fill(Vector<B>(m.data, m.size()), T(0));
  }

 private:
  void bind(Arena<B>& arena, const RoutingShape& shape) {
    routing.bind(arena, shape, {});
    gradients.bind(arena, routing, {});
  }

  B* backend_;
  Memory<B> memory_;
  moxie::Buffer<B, std::int32_t> mask_;
};

}  // namespace moxie::test
