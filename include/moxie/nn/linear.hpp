#pragma once

#include "moxie/nn/pass_state.hpp"
#include "moxie/ops/activation.hpp"
#include "moxie/ops/layer_norm.hpp"
#include "moxie/ops/layer_product.hpp"

namespace moxie {

/// How a Linear starts.
struct LinearOptions {
  bool bias = true;
  Initializer kernel_start{};  ///< of the kernel; zeros unless said otherwise
  Initializer bias_start{};
};

/// y = x W + b.   x [R, D], y [R, O]; parameters kernel [D, O] and, unless left out, bias [O].
/// Cost: R D O multiply-adds forward, twice that backward. Its backward reads x only for the
/// gradient of the kernel.
template <Backend B>
class Linear {
 public:
  using BackendType = B;
  using Options = LinearOptions;
  using Id = typename Parameters<B>::Id;
  struct Tape {
    detail::PassState<B> state;
    Scratch<B> sums;
  };

  /// A kernel that starts Xavier uniform, a bias that starts at zero.   @throws config_error unless
  /// D, O >= 1
  Linear(const Scope<B>& scope, Index in, Index out)
      : Linear(scope, in, out, {.kernel_start = Initializer::xavier_uniform(in, out)}) {}
  Linear(const Scope<B>& scope, Index in, Index out, const Options& options)
      : parameters_(scope.parameters), in_(in), out_(out), has_bias_(options.bias) {
    detail::require_positive(who, "in", in);
    detail::require_positive(who, "out", out);
    kernel_ = scope.add("kernel", {in, out}, options.kernel_start);
    if (has_bias_) bias_ = scope.add("bias", {out}, options.bias_start);
  }
  /// A kernel of another logical shape, which folds to [D, O]: that of a convolution, or split by
  /// heads.
  Linear(const Scope<B>& scope, std::vector<Index> shape, const Options& options)
      : parameters_(scope.parameters), has_bias_(options.bias) {
    const ParameterEntry folded{.name = {}, .shape = shape};
    in_ = folded.rows();
    out_ = folded.cols();
    kernel_ = scope.add("kernel", std::move(shape), options.kernel_start);
    if (has_bias_) bias_ = scope.add("bias", {out_}, options.bias_start);
  }

  Index input_width() const { return in_; }
  Index output_width() const { return out_; }
  Parameters<B>& parameters() const { return *parameters_; }

  void bind(Arena<B>& arena, Index rows, Tape& t) const {
    typename Arena<B>::Scope scope(arena);
    t.state.bind(arena, rows);
    t.sums = bind_sums(arena, rows);
  }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    t.state.begin_forward(who, x, y, in_, out_, pass);
    apply(x, y);
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    t.state.begin_backward(who, dy, dx, in_, out_);
    if (t.state.wants_weights()) add_gradients(t.state.x, dy, t.sums);
    if (dx) input_gradient(dy, dx);
  }

  /// The parts, for layers that fuse a Linear with what stands beside it: y = x W.
  void multiply(ConstMatrix<B> x, Matrix<B> y) const {
    layer_product(backend(), Op::none, Op::none, x, parameters_->value(kernel_), 0, y);
  }
  /// y = x W + b.
  void apply(ConstMatrix<B> x, Matrix<B> y) const {
    multiply(x, y);
    if (has_bias_) add_bias(backend(), bias(), ConstIntVector<B>{}, y);
  }
  /// As a matrix [1, O].
  ConstMatrix<B> bias() const { return {parameters_->vector(bias_).data, 1, out_}; }
  ConstMatrix<B> kernel() const { return parameters_->value(kernel_); }
  /// dW += x^T dy, db += column sums of dy.
  void add_gradients(ConstMatrix<B> x, ConstMatrix<B> dy, Scratch<B> sums) const {
    B& b = backend();
    layer_product(b, Op::transpose, Op::none, x, dy, 1, parameters_->gradient(kernel_));
    if (has_bias_)
      b.column_sums(dy.rows, dy.cols, detail::ElementTerm<B>{dy},
                    parameters_->gradient_vector(bias_), sums);
  }
  /// dx = dy W^T.
  void input_gradient(ConstMatrix<B> dy, Matrix<B> dx) const {
    layer_product(backend(), Op::none, Op::transpose, dy, parameters_->value(kernel_), 0, dx);
  }
  /// The scratch of add_gradients.
  Scratch<B> bind_sums(Arena<B>& arena, Index rows) const {
    if (!arena.wants_weights() || !has_bias_) return {};
    return arena.scratch_bytes(backend().column_sums_bytes(rows, out_));
  }
  B& backend() const { return parameters_->backend(); }

 private:
  static constexpr const char* who = "moxie::Linear";

  std::shared_ptr<Parameters<B>> parameters_;
  Index in_ = 0;
  Index out_ = 0;
  bool has_bias_ = true;
  Id kernel_ = 0;
  Id bias_ = 0;
};

}  // namespace moxie
