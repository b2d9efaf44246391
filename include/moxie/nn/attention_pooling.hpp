#pragma once

#include <cmath>

#include "moxie/nn/layer_norm.hpp"
#include "moxie/nn/mlp.hpp"
#include "moxie/ops/add_rows.hpp"
#include "moxie/ops/attention.hpp"
#include "moxie/ops/copy_rows.hpp"

namespace moxie {

/// Sizes of an attention pooling.
struct AttentionPoolingConfig {
  Index tokens = 0;  ///< per image
  Index width = 0;   ///< D
  Index heads = 1;   ///< divides D
  Index hidden = 0;  ///< of the perceptron
};

/// One learned probe looks at the tokens of each image: a = attention(probe, x), y = a +
/// mlp(norm(a)). x: [images, tokens * D], rows without gaps (shape_error); y: [images, D].
///
/// Parameters, named as in V-MoE: probe [1, 1, D],
/// MultiHeadDotProductAttention/{query/{kernel [D, D], bias}, key_value/{kernel [D, 2 D], bias},
/// out/{kernel [H, D / H, D], bias}}, LayerNorm/{scale, bias}, Mlp/{Dense_0, Dense_1}; key_value is
/// V-MoE's key and value side by side. Cost: 2 tokens D^2 multiply-adds an image forward, twice
/// that backward.   Source: MapHead of V-MoE.
template <Backend B>
class AttentionPooling {
 public:
  using BackendType = B;
  struct Tape {
    detail::PassState<B> state;
    AttentionMemory<B> memory;
    Matrix<B> query;      // [1, D], then its gradient
    Matrix<B> queries;    // [images, D], the same row for all
    Matrix<B> key_value;  // [images * tokens, 2 D]
    Matrix<B> heads;      // [images, D]
    Matrix<B> attended, normed, fed;
    Matrix<B> d_attended, d_heads, d_queries, d_key_value;
    Scratch<B> query_sums, key_value_sums, out_sums;
    typename LayerNorm<B>::Tape norm;
    typename Mlp<B>::Tape mlp;
  };

  /// @throws config_error unless all sizes are >= 1 and heads divides width
  AttentionPooling(const Scope<B>& scope, const AttentionPoolingConfig& config)
      : config_(checked(config)),
        probe_(
            scope.add("probe", {1, 1, config.width}, Initializer::xavier_uniform(1, config.width))),
        query_(scope / attention_name / "query", config.width, config.width),
        key_value_(scope / attention_name / "key_value", config.width, 2 * config.width,
                   {.kernel_start = Initializer::xavier_uniform(config.width, config.width)}),
        out_(scope / attention_name / "out",
             {config.heads, config.width / config.heads, config.width},
             {.kernel_start = Initializer::xavier_uniform(config.width, config.width)}),
        norm_(scope / "LayerNorm", config.width),
        mlp_(scope / "Mlp", config.width, config.hidden, config.width) {}

  Index input_width() const { return config_.tokens * config_.width; }
  Index output_width() const { return config_.width; }
  Parameters<B>& parameters() const { return out_.parameters(); }

  void bind(Arena<B>& arena, Index images, Tape& t) const {
    using T = typename B::Scalar;
    typename Arena<B>::Scope scope(arena);
    const Index width = config_.width;
    const Index rows = images * config_.tokens;
    t.state.bind(arena, images);
    t.query = arena.template scratch<T>(1, width);
    t.queries = arena.template saved<T>(images, width);
    t.key_value = arena.template saved<T>(rows, 2 * width);
    t.heads = arena.template saved_for_weights<T>(images, width);
    t.attended = arena.template saved<T>(images, width);
    t.normed = arena.template saved_for_weights<T>(images, width);
    t.fed = arena.template scratch<T>(images, width);  // and the gradient of `normed`
    t.d_attended = t.d_heads = t.d_queries = t.d_key_value = {};
    if (arena.wants_input()) {
      t.d_attended = arena.template scratch<T>(images, width);
      t.d_heads = arena.template scratch<T>(images, width);
      t.d_queries = arena.template scratch<T>(images, width);
      t.d_key_value = arena.template scratch<T>(rows, 2 * width);
    }
    t.query_sums = query_.bind_sums(arena, images);
    t.key_value_sums = key_value_.bind_sums(arena, rows);
    t.out_sums = out_.bind_sums(arena, images);
    attention.bind(backend(), arena, shape(images), t.memory);
    norm_.bind(arena, images, t.norm);
    mlp_.bind(arena, images, t.mlp);
  }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    const ConstMatrix<B> tokens = detail::token_rows(who, "x", x, config_.tokens);
    t.state.begin_forward(who, x, y, input_width(), output_width(), pass);
    const Index images = x.rows;
    const Matrix<B> key_value = t.key_value.top(tokens.rows);
    const Matrix<B> attended = t.attended.top(images);
    const Matrix<B> normed = t.normed.top(images);
    const Matrix<B> fed = t.fed.top(images);
    query_.apply(parameters().value(probe_), t.query);
    copy_rows(backend(), ConstMatrix<B>(t.query), t.queries.top(images));
    key_value_.apply(tokens, key_value);
    attention(backend(), shape(images), ConstMatrix<B>(t.queries.top(images)), half(key_value, 0),
              half(key_value, 1), t.memory, t.heads.top(images));
    out_.apply(t.heads.top(images), attended);
    norm_.forward(attended, normed, t.norm, pass);
    mlp_.forward(normed, fed, t.mlp, pass);
    add_rows(backend(), ConstMatrix<B>(attended), ConstMatrix<B>(fed), y);
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    t.state.begin_backward(who, dy, dx, input_width(), output_width());
    Matrix<B> d_tokens;
    if (dx) d_tokens = detail::token_rows(who, "dx", dx, config_.tokens);
    const Index images = t.state.rows();
    const bool weights = t.state.wants_weights();
    const ConstMatrix<B> tokens = detail::token_rows(who, "x", t.state.x, config_.tokens);
    const ConstMatrix<B> key_value = t.key_value.top(tokens.rows);
    const Matrix<B> d_key_value = t.d_key_value.top(tokens.rows);
    const Matrix<B> d_normed = t.fed.top(images);
    const Matrix<B> d_attended = t.d_attended.top(images);
    const Matrix<B> d_heads = t.d_heads.top(images);
    const Matrix<B> d_queries = t.d_queries.top(images);
    mlp_.backward(dy, d_normed, t.mlp);
    norm_.backward(d_normed, dy, d_attended, t.norm);
    if (weights) out_.add_gradients(t.heads.top(images), d_attended, t.out_sums);
    out_.input_gradient(d_attended, d_heads);
    attention_backward(backend(), shape(images), ConstMatrix<B>(t.queries.top(images)),
                       half(key_value, 0), half(key_value, 1), ConstMatrix<B>(d_heads), t.memory,
                       d_queries, half(d_key_value, 0), half(d_key_value, 1));
    if (weights) {
      key_value_.add_gradients(tokens, d_key_value, t.key_value_sums);
      query_gradients(d_queries, t);
    }
    if (dx) key_value_.input_gradient(d_key_value, d_tokens);
  }

 private:
  static constexpr const char* who = "moxie::AttentionPooling";
  static constexpr const char* attention_name = "MultiHeadDotProductAttention";
  static const AttentionPoolingConfig& checked(const AttentionPoolingConfig& c) {
    detail::require_positive(who, "tokens", c.tokens);
    detail::require_positive(who, "width", c.width);
    detail::require_positive(who, "heads", c.heads);
    detail::require_positive(who, "hidden", c.hidden);
    if (c.width % c.heads != 0)
      throw_config(who, ": heads is ", c.heads, ", expected a divisor of width, which is ",
                   c.width);
    return c;
  }
  /// All images ask with the same row, so its gradient is the sum of theirs.
  void query_gradients(ConstMatrix<B> d_queries, Tape& t) const {
    B& b = backend();
    const Matrix<B> d_query = t.query;
    b.fill(Vector<B>(d_query.data, config_.width), 0);
    b.column_sums(d_queries.rows, config_.width, detail::ElementTerm<B>{d_queries},
                  Vector<B>(d_query.data, config_.width), t.query_sums);
    query_.add_gradients(parameters().value(probe_), d_query, t.query_sums);
    layer_product(b, Op::none, Op::transpose, d_query, query_.kernel(), 1,
                  parameters().gradient(probe_));
  }
  AttentionShape shape(Index images) const {
    return {.images = images,
            .queries = 1,
            .keys = config_.tokens,
            .heads = config_.heads,
            .width = config_.width / config_.heads,
            .scale = 1 / std::sqrt(static_cast<double>(config_.width / config_.heads))};
  }
  template <class T, class Space>
  MatrixView<T, Space> half(MatrixView<T, Space> key_value, Index i) const {
    return key_value.columns(i * config_.width, config_.width);
  }
  B& backend() const { return out_.backend(); }

  AttentionPoolingConfig config_;
  typename Parameters<B>::Id probe_;
  Linear<B> query_, key_value_, out_;
  LayerNorm<B> norm_;
  Mlp<B> mlp_;
};

}  // namespace moxie
