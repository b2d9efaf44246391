#pragma once

#include <cmath>

#include "moxie/nn/linear.hpp"
#include "moxie/ops/attention.hpp"

namespace moxie {

/// Sizes of a multi-head self-attention.
struct AttentionConfig {
  Index tokens = 0;  ///< per image: rows of x come in runs of so many, which see one another
  Index width = 0;   ///< D
  Index heads = 1;   ///< H, divides D
};

/// Multi-head self-attention: y = concat over heads of softmax(q k^T / sqrt(D / H)) v, times a
/// matrix. x, y: [images * tokens, D], rows of an image together.
///
/// Parameters: qkv/kernel [D, 3 D], qkv/bias [3 D], out/kernel [H, D / H, D], out/bias [D]. One
/// product makes queries, keys and values: columns [0, D) of qkv are V-MoE's query/kernel [D, H, D
/// / H] with its two last axes folded, then follow key and value, likewise the bias. Each third
/// starts Xavier uniform as if it were alone. Cost: 4 rows D^2 + 2 rows tokens D multiply-adds
/// forward, twice that backward. No dropout. Source: Vaswani et al. 2017, as in V-MoE.
template <Backend B>
class SelfAttention {
 public:
  using BackendType = B;
  struct Tape {
    detail::PassState<B> state;
    AttentionMemory<B> memory;
    Matrix<B> qkv;    // [R, 3 D]
    Matrix<B> heads;  // [R, D] what the heads found
    Matrix<B> d_heads, d_qkv;
    Scratch<B> out_sums, qkv_sums;
  };

  /// @throws config_error unless tokens, width, heads >= 1 and heads divides width
  SelfAttention(const Scope<B>& scope, const AttentionConfig& config)
      : config_(checked(config)),
        qkv_(scope / "qkv", config.width, 3 * config.width,
             {.kernel_start = Initializer::xavier_uniform(config.width, config.width)}),
        out_(scope / "out", {config.heads, config.width / config.heads, config.width},
             {.kernel_start = Initializer::xavier_uniform(config.width, config.width)}) {}

  const AttentionConfig& config() const { return config_; }
  Index input_width() const { return config_.width; }
  Index output_width() const { return config_.width; }
  Parameters<B>& parameters() const { return qkv_.parameters(); }

  void bind(Arena<B>& arena, Index rows, Tape& t) const {
    using T = typename B::Scalar;
    typename Arena<B>::Scope scope(arena);
    t.state.bind(arena, rows);
    t.qkv = arena.template saved<T>(rows, 3 * config_.width);
    t.heads = arena.template saved_for_weights<T>(rows, config_.width);
    t.d_heads = t.d_qkv = {};
    if (arena.wants_input()) {
      t.d_heads = arena.template scratch<T>(rows, config_.width);
      t.d_qkv = arena.template scratch<T>(rows, 3 * config_.width);
    }
    t.out_sums = out_.bind_sums(arena, rows);
    t.qkv_sums = qkv_.bind_sums(arena, rows);
    attention.bind(qkv_.backend(), arena, shape(rows), t.memory);
  }
  /// @throws shape_error also unless the rows are whole images
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    if (x.rows % config_.tokens != 0)
      throw_shape(who, "::forward: x has ", x.rows, " rows, expected a multiple of ",
                  config_.tokens, " (tokens of an image)");
    t.state.begin_forward(who, x, y, config_.width, config_.width, pass);
    const Matrix<B> qkv = t.qkv.top(x.rows);
    const Matrix<B> heads = t.heads.top(x.rows);
    qkv_.apply(x, qkv);
    attention(qkv_.backend(), shape(x.rows), third(qkv, 0), third(qkv, 1), third(qkv, 2), t.memory,
              heads);
    out_.apply(heads, y);
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    t.state.begin_backward(who, dy, dx, config_.width, config_.width);
    const Index rows = t.state.rows();
    const ConstMatrix<B> qkv = t.qkv.top(rows);
    const Matrix<B> d_heads = t.d_heads.top(rows);
    const Matrix<B> d_qkv = t.d_qkv.top(rows);
    if (t.state.wants_weights()) out_.add_gradients(t.heads.top(rows), dy, t.out_sums);
    out_.input_gradient(dy, d_heads);
    attention_backward(qkv_.backend(), shape(rows), third(qkv, 0), third(qkv, 1), third(qkv, 2),
                       ConstMatrix<B>(d_heads), t.memory, third(d_qkv, 0), third(d_qkv, 1),
                       third(d_qkv, 2));
    if (t.state.wants_weights()) qkv_.add_gradients(t.state.x, d_qkv, t.qkv_sums);
    if (dx) qkv_.input_gradient(d_qkv, dx);
  }

 private:
  static constexpr const char* who = "moxie::SelfAttention";
  static const AttentionConfig& checked(const AttentionConfig& c) {
    detail::require_positive(who, "tokens", c.tokens);
    detail::require_positive(who, "width", c.width);
    detail::require_positive(who, "heads", c.heads);
    if (c.width % c.heads != 0)
      throw_config(who, ": heads is ", c.heads, ", expected a divisor of width, which is ",
                   c.width);
    return c;
  }
  AttentionShape shape(Index rows) const {
    // Whole images: a tape may be bound for a number of rows that is none.
    return {.images = (rows + config_.tokens - 1) / config_.tokens,
            .queries = config_.tokens,
            .keys = config_.tokens,
            .heads = config_.heads,
            .width = config_.width / config_.heads,
            .scale = 1 / std::sqrt(static_cast<double>(config_.width / config_.heads))};
  }
  template <class T, class Space>
  MatrixView<T, Space> third(MatrixView<T, Space> qkv, Index i) const {
    return qkv.columns(i * config_.width, config_.width);
  }

  AttentionConfig config_;
  Linear<B> qkv_, out_;
};

}  // namespace moxie
