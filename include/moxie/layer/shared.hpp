#pragma once

#include <utility>

#include "moxie/layer/pass_state.hpp"
#include "moxie/ops/add_rows.hpp"
#include "moxie/routing/record.hpp"

namespace moxie {

namespace detail {
template <class L>
Index moe_layers_of(const L& layer) {
  if constexpr (requires { layer.moe_layers(); }) {
    return layer.moe_layers();
  } else {
    return 0;
  }
}
template <class L, Backend B>
void visit_routing_of(const L& layer, typename L::Tape& tape, RoutingVisitor<B>& visitor) {
  if constexpr (requires { layer.visit_routing(tape, visitor); })
    layer.visit_routing(tape, visitor);
}

/// What layers made of a dense layer and a mixture beside it have in common: both read the same
/// rows.
template <Layer D, Layer M>
class DenseAndMoe {
  using B = typename M::BackendType;
  static_assert(std::same_as<typename D::BackendType, B>,
                "moxie: a dense layer and the MoE layer beside it need the same backend");

 public:
  struct Tape {
    PassState<B> state;
    typename D::Tape dense;
    typename M::Tape moe;
  };

  DenseAndMoe(const char* who, D dense_layer, M moe_layer)
      : dense(std::move(dense_layer)), moe(std::move(moe_layer)), who_(who) {
    if (dense.input_width() != moe.input_width() || dense.output_width() != moe.output_width())
      throw_config(who, ": the dense layer maps rows of ", dense.input_width(), " to rows of ",
                   dense.output_width(), ", the MoE layer rows of ", moe.input_width(),
                   " to rows of ", moe.output_width(), ", expected the same of both");
    if (&dense.parameters() != &moe.parameters())
      throw_config(who,
                   ": the two layers have parameters of their own, expected scopes of one model");
  }

  void begin_forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    t.state.begin_forward_of_parts(who_, x, y, moe.input_width(), moe.output_width(), pass);
  }
  Gradients begin_backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    return t.state.begin_backward_of_parts(who_, dy, dx, moe.input_width(), moe.output_width());
  }
  /// The pass of the mixture: the dense layer's MoE layers are counted first.
  Pass<B> behind_dense(const Pass<B>& pass) const {
    return pass.at_layer(pass.moe_layer + moe_layers_of(dense));
  }
  Index moe_layers() const { return moe_layers_of(dense) + moe_layers_of(moe); }
  void visit_routing(Tape& t, RoutingVisitor<B>& visitor) const {
    visit_routing_of(dense, t.dense, visitor);
    visit_routing_of(moe, t.moe, visitor);
  }
  B& backend() const { return moe.parameters().backend(); }

  D dense;
  M moe;

 private:
  const char* who_;
};
}  // namespace detail

/// A mixture with shared experts beside it, which every row goes through: y = shared(x) + moe(x).
/// `WithShared{Mlp(scope / "Shared", D, H, D), MoeLayer(scope / "Moe", ...)}`.
///
/// `shared` is any layer of the same widths in the same model: an Mlp, or one with n times the
/// hidden width for n shared experts. MoE layers are counted shared ones first. Source: Dai et al.,
/// "DeepSeekMoE", 2024, equation 9, without its residual connection, which belongs to the caller.
template <Layer S, Layer M>
class WithShared {
 public:
  using BackendType = typename M::BackendType;

 private:
  using B = BackendType;
  using Both = detail::DenseAndMoe<S, M>;

 public:
  struct Tape {
    typename Both::Tape both;
    Vector<B> branch;  // [R, O] what the mixture adds; in the backward [R, D] its gradient of x
  };

  /// @throws config_error unless both have the same widths and lie in one model
  WithShared(S shared, M moe) : both_("moxie::WithShared", std::move(shared), std::move(moe)) {}

  Index input_width() const { return both_.moe.input_width(); }
  Index output_width() const { return both_.moe.output_width(); }
  Parameters<B>& parameters() const { return both_.moe.parameters(); }
  const S& shared() const { return both_.dense; }
  const M& moe() const { return both_.moe; }
  Index moe_layers() const { return both_.moe_layers(); }
  void visit_routing(Tape& t, RoutingVisitor<B>& visitor) const {
    both_.visit_routing(t.both, visitor);
  }

  void bind(Arena<B>& arena, Index rows, Tape& t) const {
    const typename Arena<B>::Scope scope(arena);
    t.both.state.bind(arena, rows);
    const Index in = arena.wants_input() ? input_width() : 0;
    const Index out = output_width();
    t.branch = arena.template scratch<typename B::Scalar>(rows * (in > out ? in : out));
    both_.dense.bind(arena, rows, t.both.dense);
    both_.moe.bind(arena, rows, t.both.moe);
  }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    both_.begin_forward(x, y, t.both, pass);
    const Matrix<B> branch(t.branch.data, y.rows, y.cols);
    both_.dense.forward(x, y, t.both.dense, pass);
    both_.moe.forward(x, branch, t.both.moe, both_.behind_dense(pass));
    add_rows(both_.backend(), ConstMatrix<B>(y), ConstMatrix<B>(branch), y);
    t.both.state.end_forward();
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    both_.begin_backward(dy, dx, t.both);
    Matrix<B> branch;
    if (dx) branch = {t.branch.data, dx.rows, dx.cols};
    both_.moe.backward(dy, branch, t.both.moe);
    both_.dense.backward(dy, dx, t.both.dense);
    if (dx) add_rows(both_.backend(), ConstMatrix<B>(dx), ConstMatrix<B>(branch), dx);
  }

 private:
  Both both_;
};

}  // namespace moxie
