#pragma once

#include "moxie/core/error.hpp"
#include "moxie/gate/concept.hpp"

namespace moxie {

/// Multiplies what the gate sees, not what the experts see, by U(1 - epsilon, 1 + epsilon) in training: a fresh number
/// for each element of each token and step, a constant in the backward. None in evaluation.
/// Source: Fedus et al., "Switch Transformers", 2021, section 2.2; its epsilon is 0.01.
struct InputJitter {
  double epsilon = 0.01;

  friend constexpr bool operator==(const InputJitter&, const InputJitter&) = default;
};

namespace detail {
struct JitterFactor {
  Random random;
  Index first_token;  // of the whole batch, however it is split over passes
  double epsilon;

  MOXIE_HD double operator()(Index t, Index d) const {
    const double u =
        random.uniform(static_cast<std::uint64_t>(first_token + t), static_cast<std::uint64_t>(d));
    return 1 + epsilon * (2 * u - 1);
  }
};
template <Backend B>
struct JitterInput {
  static constexpr bool one_level = true;
  JitterFactor factor;
  ConstMatrix<B> x;
  Matrix<B> out;

  MOXIE_HD void operator()(Index t, Index d) const {
    out(t, d) = x(t, d) * static_cast<typename B::Scalar>(factor(t, d));
  }
};
template <Backend B>
struct JitterInputBackward {
  static constexpr bool one_level = true;
  JitterFactor factor;
  ConstMatrix<B> d_out;
  Matrix<B> dx;

  MOXIE_HD void operator()(Index t, Index d) const {
    dx(t, d) += d_out(t, d) * static_cast<typename B::Scalar>(factor(t, d));
  }
};
}  // namespace detail

/// A gate with jitter on its input: WithGate{WithJitter{InputJitter{.epsilon = 0.01}, LinearGate{}}, TopKRouter{.k = 1}}.
/// Takes a copy of the input, in training and evaluation alike.
template <class G>
struct WithJitter : G {
  InputJitter jitter{};

  WithJitter() = default;
  constexpr WithJitter(InputJitter added, G base) : G(base), jitter(added) {}

  template <Backend B>
  struct State {
    typename G::template State<B> gate;
  };
  template <Backend B>
  struct Tape {
    typename G::template Tape<B> gate;
    Matrix<B> x, dx;  // [T, D]
  };

  /// @throws config_error unless 0 <= epsilon < 1
  template <Backend B>
  void declare(const Scope<B>& scope, const GateShape& shape, State<B>& state) const {
    if (!(jitter.epsilon >= 0 && jitter.epsilon < 1))
      throw_config("moxie::InputJitter: epsilon is ", jitter.epsilon,
                   ", expected at least 0 and below 1");
    G::declare(scope, shape, state.gate);
  }
  template <Backend B>
  void bind(B& b, Arena<B>& arena, const GateShape& shape, Index tokens, Tape<B>& tape) const {
    using T = typename B::Scalar;
    tape.x = arena.template saved<T>(tokens, shape.width);
    if (arena.wants_input()) tape.dx = arena.template scratch<T>(tokens, shape.width);
    G::bind(b, arena, shape, tokens, tape.gate);
  }
  template <Backend B>
  void forward(B& b, const Context<B>& ctx, const Parameters<B>& p, const State<B>& state,
               ConstMatrix<B> x, Matrix<B> logits, Tape<B>& tape) const {
    if (jitters(ctx))
      b.for_each(x.rows, x.cols, detail::JitterInput<B>{factor(ctx), x, tape.x.top(x.rows)});
    G::forward(b, ctx, p, state.gate, seen(ctx, x, tape), logits, tape.gate);
  }
  template <Backend B>
  void backward(B& b, const Context<B>& ctx, const Parameters<B>& p, const State<B>& state,
                ConstMatrix<B> x, ConstMatrix<B> d_logits, Matrix<B> dx, bool weights,
                Tape<B>& tape) const {
    if (!dx || !jitters(ctx)) {
      G::backward(b, ctx, p, state.gate, seen(ctx, x, tape), d_logits, dx, weights, tape.gate);
      return;
    }
    const Matrix<B> d_seen = tape.dx.top(x.rows);
    b.fill(Vector<B>(d_seen.data, d_seen.size()), typename B::Scalar(0));
    G::backward(b, ctx, p, state.gate, seen(ctx, x, tape), d_logits, d_seen, weights, tape.gate);
    b.for_each(x.rows, x.cols, detail::JitterInputBackward<B>{factor(ctx), d_seen, dx});
  }

  friend constexpr bool operator==(const WithJitter&, const WithJitter&) = default;

 private:
  template <class B>
  bool jitters(const Context<B>& ctx) const {
    return jitter.epsilon > 0 && ctx.mode == Mode::train;
  }
  template <class B>
  detail::JitterFactor factor(const Context<B>& ctx) const {
    return {ctx.random("router jitter"), ctx.first_token, jitter.epsilon};
  }
  template <class B>
  ConstMatrix<B> seen(const Context<B>& ctx, ConstMatrix<B> x, const Tape<B>& tape) const {
    return jitters(ctx) ? ConstMatrix<B>(tape.x.top(x.rows)) : x;
  }
};
template <class G>
WithJitter(InputJitter, G) -> WithJitter<G>;

}  // namespace moxie
