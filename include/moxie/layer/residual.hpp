#pragma once

#include "moxie/core/strip.hpp"
#include "moxie/layer/shared.hpp"
#include "moxie/ops/layer_norm.hpp"

namespace moxie {

namespace detail {
/// A softmax over two logits is a sigmoid of their difference.
template <Backend B>
struct MixTwoRow {
  ConstVector<B> bias;  // [2]
  ConstMatrix<B> moe, mlp;
  Matrix<B> coefficient;  // [R, 2] in: logits without bias; out: coefficients
  Matrix<B> y;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    T* c = coefficient.row(r);
    const T ahead = (c[0] + bias[0]) - (c[1] + bias[1]);
    const T of_moe = math::sigmoid(ahead);
    const T of_mlp = math::sigmoid(-ahead);
    c[0] = of_moe;
    c[1] = of_mlp;
    const T* from_moe = moe.row(r);
    const T* from_mlp = mlp.row(r);
    row_map(y.cols, y.row(r), [=](Index j) { return of_moe * from_moe[j] + of_mlp * from_mlp[j]; });
  }
};

template <Backend B>
struct MixTwoRowBackward {
  ConstMatrix<B> dy, moe, mlp, coefficient;
  Matrix<B> d_logits;  // [R, 2]

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const T* d = dy.row(r);
    const T* from_moe = moe.row(r);
    const T* from_mlp = mlp.row(r);
    const T ahead =
        strip_sum<T>(dy.cols, [=](Index j) { return d[j] * (from_moe[j] - from_mlp[j]); });
    const T slope = coefficient(r, 0) * coefficient(r, 1) * ahead;
    d_logits(r, 0) = slope;
    d_logits(r, 1) = -slope;
  }
};

/// out[r, :] = coefficient[r, column] * in[r, :]
template <Backend B>
struct ShareOfRow {
  ConstMatrix<B> coefficient;
  Index column;
  ConstMatrix<B> in;
  Matrix<B> out;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    const auto c = coefficient(r, column);
    const auto* from = in.row(r);
    row_map(out.cols, out.row(r), [=](Index j) { return c * from[j]; });
  }
};
}  // namespace detail

/// A dense perceptron that every row goes through and a mixture that corrects it, in learned
/// shares: y = c0 moe(x) + c1 mlp(x), (c0, c1) = softmax(x Wc + bc) per row. `ResidualMoe{scope,
/// Mlp(scope / "Mlp", D, H, D), MoeLayer(scope / "Moe", ...)}`.
///
/// Parameters of its own: coefficient/{kernel [D, 2], bias [2]}; the kernel starts as a gate's
/// does, the bias at zero, so both shares start near a half. The mixture usually takes k = 1, which
/// with the perceptron costs as much as k = 2. Source: Rajbhandari et al., "DeepSpeed-MoE", 2022,
/// section 4.1 (Residual-MoE); the coefficients, mixture first, are those of the released code
/// (`MoE(use_residual=True)`).
template <Layer S, Layer M>
class ResidualMoe {
 public:
  using BackendType = typename M::BackendType;

 private:
  using B = BackendType;
  using T = typename B::Scalar;
  using Both = detail::DenseAndMoe<S, M>;

 public:
  struct Tape {
    typename Both::Tape both;
    Matrix<B> moe, mlp;     // [R, O] what each gives
    Matrix<B> coefficient;  // [R, 2] c0 and c1
    Matrix<B> d_branch;     // [R, O] share of dy
    Matrix<B> d_logits;     // [R, 2]
    Matrix<B> dx;           // [R, D] of the perceptron
    Scratch<B> sums;
  };

  /// `scope` is where the coefficients are declared.
  /// @throws config_error unless both have the same widths and lie in the scope's model
  ResidualMoe(const Scope<B>& scope, S mlp, M moe) : both_(who, std::move(mlp), std::move(moe)) {
    if (scope.parameters.get() != &parameters())
      throw_config(who, ": the scope is of another model than the layers, expected scopes of one");
    const Scope<B> own = scope / "coefficient";
    kernel_ = own.add("kernel", {input_width(), 2}, Initializer::lecun_normal(input_width()));
    bias_ = own.add("bias", {2}, Initializer::zeros());
  }

  Index input_width() const { return both_.moe.input_width(); }
  Index output_width() const { return both_.moe.output_width(); }
  Parameters<B>& parameters() const { return both_.moe.parameters(); }
  const S& mlp() const { return both_.dense; }
  const M& moe() const { return both_.moe; }
  Index moe_layers() const { return both_.moe_layers(); }
  void visit_routing(Tape& t, RoutingVisitor<B>& visitor) const {
    both_.visit_routing(t.both, visitor);
  }

  void bind(Arena<B>& arena, Index rows, Tape& t) const {
    const typename Arena<B>::Scope scope(arena);
    const Index out = output_width();
    t.both.state.bind(arena, rows);
    t.moe = arena.template saved<T>(rows, out);
    t.mlp = arena.template saved<T>(rows, out);
    t.coefficient = arena.template saved<T>(rows, 2);
    if (arena.wants_input()) {
      t.d_branch = arena.template scratch<T>(rows, out);
      t.d_logits = arena.template scratch<T>(rows, 2);
      t.dx = arena.template scratch<T>(rows, input_width());
    }
    if (arena.wants_weights())
      t.sums = arena.scratch_bytes(both_.backend().column_sums_bytes(rows, 2));
    both_.dense.bind(arena, rows, t.both.dense);
    both_.moe.bind(arena, rows, t.both.moe);
  }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    both_.begin_forward(x, y, t.both, pass);
    B& b = both_.backend();
    const Matrix<B> moe = t.moe.top(x.rows);
    const Matrix<B> mlp = t.mlp.top(x.rows);
    const Matrix<B> coefficient = t.coefficient.top(x.rows);
    both_.dense.forward(x, mlp, t.both.dense, pass);
    both_.moe.forward(x, moe, t.both.moe, both_.behind_dense(pass));
    b.gemm(Op::none, Op::none, 1, x, parameters().value(kernel_), 0, coefficient);
    b.for_each(x.rows, detail::MixTwoRow<B>{parameters().vector(bias_), moe, mlp, coefficient, y},
               detail::row_grain(y.cols));
    t.both.state.end_forward();
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    const Gradients gradients = both_.begin_backward(dy, dx, t.both);
    B& b = both_.backend();
    const Index rows = dy.rows;
    const Index grain = detail::row_grain(dy.cols);
    const ConstMatrix<B> coefficient = t.coefficient.top(rows);
    const Matrix<B> d_branch = t.d_branch.top(rows);
    const Matrix<B> d_logits = t.d_logits.top(rows);
    b.for_each(rows, detail::ShareOfRow<B>{coefficient, 0, dy, d_branch}, grain);
    both_.moe.backward(d_branch, dx, t.both.moe);
    b.for_each(rows, detail::ShareOfRow<B>{coefficient, 1, dy, d_branch}, grain);
    both_.dense.backward(d_branch, dx ? t.dx.top(rows) : Matrix<B>{}, t.both.dense);
    b.for_each(
        rows,
        detail::MixTwoRowBackward<B>{dy, t.moe.top(rows), t.mlp.top(rows), coefficient, d_logits},
        grain);
    if (gradients == Gradients::all) {
      b.gemm(Op::transpose, Op::none, 1, t.both.state.x, d_logits, 1,
             parameters().gradient(kernel_));
      b.column_sums(rows, 2, detail::ElementTerm<B>{d_logits}, parameters().gradient_vector(bias_),
                    t.sums);
    }
    if (dx) {
      add_rows(b, ConstMatrix<B>(dx), ConstMatrix<B>(t.dx.top(rows)), dx);
      b.gemm(Op::none, Op::transpose, 1, d_logits, parameters().value(kernel_), 1, dx);
    }
  }

 private:
  static constexpr const char* who = "moxie::ResidualMoe";

  Both both_;
  typename Parameters<B>::Id kernel_ = 0;
  typename Parameters<B>::Id bias_ = 0;
};

}  // namespace moxie
