#pragma once

#include "moxie/nn/pass_state.hpp"
#include "moxie/ops/layer_norm.hpp"

namespace moxie {

/// y = (x - mean) / sqrt(variance + epsilon) * scale + bias, by rows.   x, y [R, D]; parameters
/// scale [D], which starts at 1, and bias [D].   Source: Ba et al., "Layer Normalization", 2016;
/// epsilon as in V-MoE.
template <Backend B>
class LayerNorm {
 public:
  using BackendType = B;
  struct Tape {
    detail::PassState<B> state;
    Matrix<B> stats;  // [R, 2]
    Scratch<B> sums;
  };

  /// @throws config_error unless width >= 1
  LayerNorm(const Scope<B>& scope, Index width, double epsilon = 1e-6)
      : parameters_(scope.parameters), width_(width), epsilon_(epsilon) {
    detail::require_positive(who, "width", width);
    scale_ = scope.add("scale", {width}, Initializer::constant(1));
    bias_ = scope.add("bias", {width}, Initializer::zeros());
  }

  Index input_width() const { return width_; }
  Index output_width() const { return width_; }
  Parameters<B>& parameters() const { return *parameters_; }

  void bind(Arena<B>& arena, Index rows, Tape& t) const {
    typename Arena<B>::Scope scope(arena);
    t.state.bind(arena, rows);
    t.stats = arena.template saved<typename B::Scalar>(rows, 2);
    t.sums = {};
    if (arena.wants_weights())
      t.sums = arena.scratch_bytes(parameters_->backend().column_sums_bytes(rows, width_));
  }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    t.state.begin_forward(who, x, y, width_, width_, pass);
    layer_norm_rows(parameters_->backend(), x, parameters_->vector(scale_),
                    parameters_->vector(bias_), epsilon_, y, t.stats);
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const { backward(dy, {}, dx, t); }
  /// dx = add + the gradient of the input: the norm at the start of a residual branch, and what
  /// passes beside it. dx may be `add`.
  void backward(ConstMatrix<B> dy, ConstMatrix<B> add, Matrix<B> dx, Tape& t) const {
    t.state.begin_backward(who, dy, dx, width_, width_);
    B& b = parameters_->backend();
    const ConstMatrix<B> stats = t.stats.top(t.state.rows());
    if (t.state.wants_weights())
      layer_norm_weights_backward(b, t.state.x, stats, dy, parameters_->gradient_vector(scale_),
                                  parameters_->gradient_vector(bias_), t.sums);
    if (dx) layer_norm_rows_backward(b, t.state.x, stats, parameters_->vector(scale_), dy, add, dx);
  }

 private:
  static constexpr const char* who = "moxie::LayerNorm";

  std::shared_ptr<Parameters<B>> parameters_;
  Index width_;
  double epsilon_;
  typename Parameters<B>::Id scale_ = 0;
  typename Parameters<B>::Id bias_ = 0;
};

}  // namespace moxie
