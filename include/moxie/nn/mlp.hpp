#pragma once

#include "moxie/nn/linear.hpp"

namespace moxie {

/// The two-layer perceptron of transformers: y = A(x W0 + b0) W1 + b1.   x [R, D], y [R, O];
/// parameters Dense_0/{kernel [D, H], bias [H]}, Dense_1/{kernel [H, O], bias [O]}. Kernels start
/// Xavier uniform, biases N(0, 1e-12), as in V-MoE. No dropout: its rate is 0 wherever this library
/// trains. Cost: R H (D + O) multiply-adds forward, twice that backward.
template <Backend B, class A = Gelu>
class Mlp {
 public:
  using BackendType = B;
  struct Tape {
    detail::PassState<B> state;
    Matrix<B> pre;    // [R, H] x W0 + b0
    Matrix<B> act;    // [R, H]
    Matrix<B> d_act;  // [R, H]
    Scratch<B> sums_0, sums_1;
  };

  /// @throws config_error unless D, H, O >= 1
  Mlp(const Scope<B>& scope, Index width, Index hidden, Index output)
      : zero_(scope / "Dense_0", width, hidden, options(width, hidden)),
        one_(scope / "Dense_1", hidden, output, options(hidden, output)) {}

  Index input_width() const { return zero_.input_width(); }
  Index output_width() const { return one_.output_width(); }
  Parameters<B>& parameters() const { return zero_.parameters(); }

  void bind(Arena<B>& arena, Index rows, Tape& t) const {
    using T = typename B::Scalar;
    typename Arena<B>::Scope scope(arena);
    const Index hidden = zero_.output_width();
    t.state.bind(arena, rows);
    t.pre = arena.template saved<T>(rows, hidden);
    t.act = arena.template saved_for_weights<T>(rows, hidden);
    t.d_act = {};
    if (arena.wants_input()) t.d_act = arena.template scratch<T>(rows, hidden);
    t.sums_1 = one_.bind_sums(arena, rows);
    t.sums_0 = zero_.bind_sums(arena, rows);
  }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    t.state.begin_forward(who, x, y, input_width(), output_width(), pass);
    const Matrix<B> pre = t.pre.top(x.rows);
    const Matrix<B> act = t.act.top(x.rows);
    zero_.multiply(x, pre);
    bias_activation<A>(zero_.backend(), zero_.bias(), ConstIntVector<B>{}, pre, act,
                       t.state.gradients != Gradients::none);
    one_.apply(act, y);
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    t.state.begin_backward(who, dy, dx, input_width(), output_width());
    const Index rows = t.state.rows();
    const Matrix<B> d_act = t.d_act.top(rows);
    if (t.state.wants_weights()) one_.add_gradients(t.act.top(rows), dy, t.sums_1);
    one_.input_gradient(dy, d_act);
    activation_backward<A>(zero_.backend(), ConstIntVector<B>{}, ConstMatrix<B>(t.pre.top(rows)),
                           d_act);
    if (t.state.wants_weights()) zero_.add_gradients(t.state.x, d_act, t.sums_0);
    if (dx) zero_.input_gradient(d_act, dx);
  }

 private:
  static constexpr const char* who = "moxie::Mlp";
  static LinearOptions options(Index in, Index out) {
    return {.kernel_start = Initializer::xavier_uniform(in, out),
            .bias_start = Initializer::normal(1e-6)};
  }

  Linear<B> zero_, one_;
};

}  // namespace moxie
