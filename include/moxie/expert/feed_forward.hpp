#pragma once

#include "moxie/core/error.hpp"
#include "moxie/expert/concept.hpp"
#include "moxie/ops/expert_bias.hpp"
#include "moxie/ops/expert_product.hpp"

namespace moxie {

/// The two-layer perceptron of transformers: y = A(x W1 + b1) W2 + b2, one set of weights per expert.
///
/// Parameters: Mlp/Dense_0/{kernel [E, D, H], bias [E, H]}, Mlp/Dense_1/{kernel [E, H, O], bias [E, O]}. Kernels start
/// Xavier uniform, biases N(0, 1e-12), as in V-MoE; there all experts start alike (`same_experts`), which routing
/// then breaks; ours start apart.   Cost: R H (D + O) multiply-adds forward, twice that backward.
template <class A = Gelu>
struct FeedForward {
  Index hidden = 0;  ///< H
  Index output = 0;  ///< O; 0 = the width of a token
  bool same_experts = false;

  template <Backend B>
  struct State {
    ExpertWeights<B> w1, w2;
    typename Parameters<B>::Id b1 = 0, b2 = 0;
  };
  template <Backend B>
  struct Tape {
    Matrix<B> pre;       // [R, H] x W1 + b1
    Matrix<B> act;       // [R, H]; without gradients, pre
    Matrix<B> d_hidden;  // [R, H]
    ExpertMemory<B> products;
  };

  Index output_width(Index width) const noexcept { return output > 0 ? output : width; }

  /// @throws config_error unless hidden >= 1
  template <Backend B>
  void declare(const Scope<B>& scope, const ExpertShape& s, State<B>& state) const {
    if (hidden < 1) throw_config("moxie::FeedForward: hidden is ", hidden, ", expected >= 1");
    detail::check_output("moxie::FeedForward", output);
    const Index out = output_width(s.width);
    const Scope<B> one = scope / "Mlp" / "Dense_0";
    const Scope<B> two = scope / "Mlp" / "Dense_1";
    state.w1 = {one.add_experts("kernel", {s.experts, s.width, hidden},
                                Initializer::xavier_uniform(s.width, hidden), same_experts)};
    state.b1 =
        one.add_experts("bias", {s.experts, hidden}, Initializer::normal(1e-6), same_experts);
    state.w2 = {two.add_experts("kernel", {s.experts, hidden, out},
                                Initializer::xavier_uniform(hidden, out), same_experts)};
    state.b2 = two.add_experts("bias", {s.experts, out}, Initializer::normal(1e-6), same_experts);
  }
  template <Backend B>
  void bind(B& b, Arena<B>& arena, const Parameters<B>& p, const State<B>& state, Index rows,
            Tape<B>& tape) const {
    using T = typename B::Scalar;
    const Index stride = detail::row_stride<T>(hidden);
    tape.pre = arena.template saved<T>(rows, stride).columns(0, hidden);
    tape.act = arena.wants_input()
                   ? arena.template saved_for_weights<T>(rows, stride).columns(0, hidden)
                   : tape.pre;
    if (arena.wants_input())
      tape.d_hidden = arena.template scratch<T>(rows, stride).columns(0, hidden);
    expert_product.bind(b, arena, p, state.w1, state.w2, rows, tape.products);
  }
  template <Backend B>
  void forward(B& b, const Parameters<B>& p, const State<B>& state, const Rows<B>& in,
               Matrix<B> out, Tape<B>& tape, const Pass<B>&) const {
    const Matrix<B> pre = tape.pre.top(in.rows);
    const Matrix<B> act = tape.act.top(in.rows);
    const bool keep_pre = act.data != pre.data;
    const BiasActivationEnd<B, A> activate{p.value(state.b1), pre, act, keep_pre};
    expert_pair(b, p, tape.products,
                ExpertStep<B, BiasActivationEnd<B, A>>{state.w1, in, Op::none, pre, activate},
                ExpertStep<B, BiasEnd<B>>{
                    state.w2, plain<B>(act, in), Op::none, out, {p.value(state.b2), out}});
  }
  template <Backend B>
  void backward(B& b, const Parameters<B>& p, const State<B>& state, const Rows<B>& in,
                const Rows<B>& dy, Matrix<B> dx, Tape<B>& tape, Gradients gradients) const {
    const Matrix<B> d = tape.d_hidden.top(in.rows);
    const Rows<B> d_rows = plain<B>(d, in);
    const ActivationBackwardEnd<B, A> derive{tape.pre.top(in.rows), d};
    expert_pair(b, p, tape.products,
                ExpertStep<B, ActivationBackwardEnd<B, A>>{state.w2, dy, Op::transpose, d, derive},
                ExpertStep<B, NoEnd>{state.w1, d_rows, Op::transpose, dx, {}});
    if (gradients == Gradients::all) {
      expert_weights_product(b, tape.products, plain<B>(tape.act.top(in.rows), in), dy,
                             p.gradient(state.w2.id));
      expert_bias_backward(b, dy, p.gradient(state.b2));
      expert_weights_product(b, tape.products, in, d_rows, p.gradient(state.w1.id));
      expert_bias_backward(b, d_rows, p.gradient(state.b1));
    }
  }

  friend constexpr bool operator==(const FeedForward&, const FeedForward&) = default;

 private:
  template <Backend B>
  static Rows<B> plain(ConstMatrix<B> m, const Rows<B>& like) {
    return {m, {}, {}, like.offset, like.rows, like.each};
  }
};

}  // namespace moxie
