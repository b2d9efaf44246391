#pragma once

#include "moxie/core/error.hpp"
#include "moxie/expert/concept.hpp"
#include "moxie/ops/expert_bias.hpp"
#include "moxie/ops/expert_product.hpp"
#include "moxie/ops/gated_activation.hpp"

namespace moxie {

/// The gated perceptron: y = (A(x Wg + bg) * (x Wu + bu)) Wo + bo, one set of weights per expert.
///
/// Parameters: Mlp/Dense_0/{kernel [E, D, 2H], bias [E, 2H]}, whose first H columns are the gate
/// (Wg, bg) and whose last H are what it gates (Wu, bu), so that one product reads x once;
/// Mlp/Dense_1/{kernel [E, H, O], bias [E, O]}. Kernels start Xavier uniform (fan of the halves: D
/// and H), biases N(0, 1e-12), as FeedForward's. Cost: R H (2 D + O) multiply-adds forward, twice
/// that backward. Source: Shazeer, "GLU variants improve transformer", 2020, equations 5 and 6;
/// there without biases.
template <class A = Silu>
struct GatedFeedForward {
  Index hidden = 0;  ///< H
  Index output = 0;  ///< O; 0 = the width of a token
  bool same_experts = false;
  bool bias = true;  ///< false: no bias entries, as in the paper

  template <Backend B>
  struct State {
    ExpertWeights<B> w1, w2;
    typename Parameters<B>::Id b1 = 0, b2 = 0;
  };
  template <Backend B>
  struct Tape {
    Matrix<B> pre;    // [R, 2H] gate and up before the activation
    Matrix<B> act;    // [R, H]
    Matrix<B> d_pre;  // [R, 2H]
    ExpertMemory<B> products;
  };

  Index output_width(Index width) const noexcept { return output > 0 ? output : width; }

  /// @throws config_error unless hidden >= 1
  template <Backend B>
  void declare(const Scope<B>& scope, const ExpertShape& s, State<B>& state) const {
    if (hidden < 1) throw_config("moxie::GatedFeedForward: hidden is ", hidden, ", expected >= 1");
    detail::check_output("moxie::GatedFeedForward", output);
    const Index out = output_width(s.width);
    const Scope<B> one = scope / "Mlp" / "Dense_0";
    const Scope<B> two = scope / "Mlp" / "Dense_1";
    const Initializer small = Initializer::normal(1e-6);
    state.w1 = {one.add_experts("kernel", {s.experts, s.width, 2 * hidden},
                                Initializer::xavier_uniform(s.width, hidden), same_experts)};
    if (bias) state.b1 = one.add_experts("bias", {s.experts, 2 * hidden}, small, same_experts);
    state.w2 = {two.add_experts("kernel", {s.experts, hidden, out},
                                Initializer::xavier_uniform(hidden, out), same_experts)};
    if (bias) state.b2 = two.add_experts("bias", {s.experts, out}, small, same_experts);
  }
  template <Backend B>
  void bind(B& b, Arena<B>& arena, const Parameters<B>& p, const State<B>& state, Index rows,
            Tape<B>& tape) const {
    using T = typename B::Scalar;
    const Index wide = detail::row_stride<T>(2 * hidden);
    tape.pre = arena.template saved<T>(rows, wide).columns(0, 2 * hidden);
    tape.act =
        arena.template saved_for_weights<T>(rows, detail::row_stride<T>(hidden)).columns(0, hidden);
    if (arena.wants_input())
      tape.d_pre = arena.template scratch<T>(rows, wide).columns(0, 2 * hidden);
    expert_product.bind(b, arena, p, state.w1, state.w2, rows, tape.products);
  }
  template <Backend B>
  void forward(B& b, const Parameters<B>& p, const State<B>& state, const Rows<B>& in,
               Matrix<B> out, Tape<B>& tape, const Pass<B>&) const {
    const Matrix<B> pre = tape.pre.top(in.rows);
    const Matrix<B> act = tape.act.top(in.rows);
    expert_product(b, p, state.w1, tape.products, in, Op::none, pre, NoEnd{});
    gated_activation<A>(b, bias ? p.value(state.b1) : ConstMatrix<B>{}, in.offset, pre, act);
    const Rows<B> act_rows = plain<B>(act, in);
    if (bias) {
      expert_product(b, p, state.w2, tape.products, act_rows, Op::none, out,
                     BiasEnd<B>{p.value(state.b2), out});
    } else {
      expert_product(b, p, state.w2, tape.products, act_rows, Op::none, out, NoEnd{});
    }
  }
  template <Backend B>
  void backward(B& b, const Parameters<B>& p, const State<B>& state, const Rows<B>& in,
                const Rows<B>& dy, Matrix<B> dx, Tape<B>& tape, Gradients gradients) const {
    const Matrix<B> d = tape.d_pre.top(in.rows);
    const Rows<B> d_rows = plain<B>(d, in);
    expert_product(b, p, state.w2, tape.products, dy, Op::transpose, d.columns(0, hidden), NoEnd{});
    if (gradients == Gradients::all) {
      expert_weights_product(b, tape.products, plain<B>(tape.act.top(in.rows), in), dy,
                             p.gradient(state.w2.id));
      if (bias) expert_bias_backward(b, dy, p.gradient(state.b2));
    }
    gated_activation_backward<A>(b, in.offset, ConstMatrix<B>(tape.pre.top(in.rows)), d);
    if (gradients == Gradients::all) {
      expert_weights_product(b, tape.products, in, d_rows, p.gradient(state.w1.id));
      if (bias) expert_bias_backward(b, d_rows, p.gradient(state.b1));
    }
    expert_product(b, p, state.w1, tape.products, d_rows, Op::transpose, dx, NoEnd{});
  }

  friend constexpr bool operator==(const GatedFeedForward&, const GatedFeedForward&) = default;

 private:
  template <Backend B>
  static Rows<B> plain(ConstMatrix<B> m, const Rows<B>& like) {
    return {m, {}, {}, like.offset, like.rows, like.each};
  }
};

using SwiGLU = GatedFeedForward<Silu>;
using GEGLU = GatedFeedForward<Gelu>;

}  // namespace moxie
