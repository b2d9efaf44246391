#pragma once

#include <cmath>

#include "moxie/core/error.hpp"
#include "moxie/gate/concept.hpp"
#include "moxie/ops/cosine_product.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct LogitScale {  // exp of the learned logarithm, at most `most`
  ConstVector<B> log_scale;
  double most;
  Vector<B> scale;

  MOXIE_HD void operator()(Index) const {
    using T = typename B::Scalar;
    const T value = math::exp(log_scale[0]);
    scale[0] = value > static_cast<T>(most) ? static_cast<T>(most) : value;
  }
};
template <Backend B>
struct LogitScaleBackward {
  ConstVector<B> log_scale, d_scale;
  double most;
  Vector<B> d_log_scale;

  MOXIE_HD void operator()(Index) const {
    using T = typename B::Scalar;
    const T value = math::exp(log_scale[0]);
    if (!(value > static_cast<T>(most))) d_log_scale[0] += d_scale[0] * value;
  }
};
}  // namespace detail

/// Cosine scores: a token is projected to a low dimension M, and its logit for an expert is the cosine of projection and
/// the expert's embedding, divided by a learned temperature. The representation of tokens is then not drawn towards the
/// experts' embeddings, as a plain product draws it.
///
/// Parameters: projection [D, M] without a bias, embedding [M, E], and `temperature`, the logarithm of 1 / temperature,
/// whose exponential is kept to at most `most_scale`. Norms are sqrt(sum of squares + 1e-12). Only the projection, a
/// kernel, decays by default.
/// Source: X-MoE (Chi et al., "On the Representation Collapse of Sparse Mixture of Experts", NeurIPS 2022), eq. 3;
/// start and bound of the temperature and the width 256 as in Tutel, `tutel/gates/cosine_top.py`, whose projection has a
/// bias and whose normalization has no epsilon inside the root.
struct CosineGate {
  Index projection = 256;    ///< M
  double temperature = 0.5;  ///< at the start
  double most_scale = 100;   ///< of 1 / temperature

  template <Backend B>
  struct State {
    typename Parameters<B>::Id projection = 0;
    typename Parameters<B>::Id embedding = 0;
    typename Parameters<B>::Id temperature = 0;
  };
  template <Backend B>
  struct Tape {
    CosineProduct<B> product;
    Matrix<B> projected, d_projected;  // [T, M]
    Vector<B> scale, d_scale;          // [1]
  };

  /// @throws config_error for sizes or temperatures that make no sense
  template <Backend B>
  void declare(const Scope<B>& scope, const GateShape& shape, State<B>& state) const {
    if (projection < 1)
      throw_config("moxie::CosineGate: projection is ", projection, ", expected >= 1");
    if (!(most_scale > 0 && most_scale <= 1e30))  // logits stay finite, in float as well
      throw_config("moxie::CosineGate: most_scale is ", most_scale,
                   ", expected > 0 and at most 1e30");
    if (!(temperature * most_scale >= 1 && temperature <= 1e30))
      throw_config("moxie::CosineGate: temperature is ", temperature, ", expected at least ",
                   1 / most_scale, " (1 / most_scale) and at most 1e30");
    const Scope<B> own = scope / "Router";
    state.projection = own.add("projection/kernel", {shape.width, projection},
                               Initializer::lecun_normal(shape.width));
    state.embedding =
        own.add("embedding", {projection, shape.columns()}, Initializer::normal(0.01));
    state.temperature = own.add("temperature", {}, Initializer::constant(-std::log(temperature)));
  }
  template <Backend B>
  void bind(B& b, Arena<B>& arena, const GateShape& shape, Index tokens, Tape<B>& tape) const {
    using T = typename B::Scalar;
    tape.projected = arena.template saved<T>(tokens, projection);
    tape.scale = arena.template saved<T>(1);
    if (arena.wants_input()) {
      tape.d_projected = arena.template scratch<T>(tokens, projection);
      tape.d_scale = arena.template scratch<T>(1);
    }
    tape.product.bind(b, arena, tokens, projection, shape.columns());
  }
  template <Backend B>
  void forward(B& b, const Context<B>&, const Parameters<B>& p, const State<B>& state,
               ConstMatrix<B> x, Matrix<B> logits, Tape<B>& tape) const {
    const Matrix<B> projected = tape.projected.top(x.rows);
    b.gemm(Op::none, Op::none, 1, x, p.value(state.projection), 0, projected);
    b.for_each(1, detail::LogitScale<B>{p.vector(state.temperature), most_scale, tape.scale});
    tape.product.forward(b, projected, p.value(state.embedding), tape.scale, epsilon, logits);
  }
  template <Backend B>
  void backward(B& b, const Context<B>&, const Parameters<B>& p, const State<B>& state,
                ConstMatrix<B> x, ConstMatrix<B> d_logits, Matrix<B> dx, bool weights,
                Tape<B>& tape) const {
    using T = typename B::Scalar;
    if (!dx && !weights) return;
    const Matrix<B> d_projected = tape.d_projected.top(x.rows);
    b.fill(Vector<B>(d_projected.data, d_projected.size()), T(0));
    b.fill(tape.d_scale, T(0));
    tape.product.backward(
        b, tape.projected.top(x.rows), p.value(state.embedding), tape.scale, d_logits, d_projected,
        weights ? p.gradient(state.embedding) : Matrix<B>(), weights ? tape.d_scale : Vector<B>());
    if (weights) {
      b.gemm(Op::transpose, Op::none, 1, x, d_projected, 1, p.gradient(state.projection));
      b.for_each(
          1, detail::LogitScaleBackward<B>{p.vector(state.temperature), tape.d_scale, most_scale,
                                           p.gradient_vector(state.temperature)});
    }
    if (dx) b.gemm(Op::none, Op::transpose, 1, d_projected, p.value(state.projection), 1, dx);
  }

  friend constexpr bool operator==(const CosineGate&, const CosineGate&) = default;

 private:
  static constexpr double epsilon = 1e-12;
};

}  // namespace moxie
