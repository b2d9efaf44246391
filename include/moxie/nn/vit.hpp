#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "moxie/layer/any_layer.hpp"
#include "moxie/nn/attention_pooling.hpp"
#include "moxie/nn/class_token.hpp"
#include "moxie/nn/encoder_block.hpp"
#include "moxie/nn/mlp.hpp"
#include "moxie/nn/patch_embedding.hpp"
#include "moxie/nn/vit_config.hpp"

namespace moxie {

/// A vision transformer, with mixtures of experts in the blocks that the config names: images to
/// class scores. x: [images, height * width * channels], pixel by pixel, channels last; y: [images,
/// classes].
///
///   patches -> tokens (-> class token before them) + positions -> blocks -> norm -> pooling ->
///   head
///
/// Parameters are named as in V-MoE: embedding/{kernel, bias}, cls,
/// Encoder/posembed_input/pos_embedding, Encoder/encoderblock_i/{LayerNorm_0, SelfAttention,
/// LayerNorm_1, Mlp or Moe}/..., Encoder/encoder_norm/{scale, bias}, MapHead/... with attention
/// pooling, head/{kernel, bias}; how the attention's are folded stands at SelfAttention. The head's
/// kernel starts at 0.
///
/// A pass goes on to all parts as it is; `Pass::moe_layer` counts up over the blocks' MoE layers.
/// `Pass::mask`, `Pass::pairs` and `Pass::first_token` count tokens, `tokens_per_image` of them an
/// image (a class token is the first of its image), since the MoE layers are who reads them.
///
/// No dropout, no tanh layer before the head, no norm of queries and keys: V-MoE's options, all off
/// where this library trains.   Source: Riquelme et al., "Scaling Vision with Sparse Mixture of
/// Experts", 2021.
template <Backend B>
class Vit {
 public:
  using BackendType = B;
  struct Tape {
    detail::PassState<B> state;
    Matrix<B> embedded;             // [images, patches * D]
    Matrix<B> classed;              // [images, tokens * D]
    std::vector<Matrix<B>> stream;  // [images * tokens, D] before each block, and after the last
    Matrix<B> normed;               // [images * tokens, D]
    Matrix<B> pooled, d_pooled;     // [images, D]
    Matrix<B> d_stream[2];          // before and after a block, in turns
    typename PatchEmbedding<B>::Tape embedding;
    typename ClassToken<B>::Tape class_token;
    typename PositionEmbedding<B>::Tape positions;
    std::vector<typename EncoderBlock<B>::Tape> blocks;
    typename LayerNorm<B>::Tape norm;
    typename AnyLayer<B>::Tape pooling;
    typename Linear<B>::Tape head;
  };

  /// Inside a model. `make_feed(scope, block)` gives the `AnyLayer<B>` of each block in
  /// config.moe_blocks, in order; scope ends in ".../encoderblock_<block>/Moe/".
  /// @throws config_error if the config makes no sense, or a feed is not D wide
  template <class MakeFeed>
  Vit(const Scope<B>& scope, const VitConfig& config, const MakeFeed& make_feed)
      : config_(checked(config)),
        embedding_(scope / "embedding",
                   {config.image_height, config.image_width, config.channels, config.patch},
                   config.width),
        norm_(declare(scope, make_feed)),
        pooling_(make_pooling(scope)),
        head_(scope / "head", config.width, config.classes,
              {.bias_start = Initializer::constant(config.head_bias)}) {}
  /// Without experts.   @throws config_error also if config.moe_blocks is not empty
  Vit(const Scope<B>& scope, const VitConfig& config) : Vit(scope, config, NoExperts{}) {}
  /// A model of its own, which owns its parameters; they are initialized with config.seed. The
  /// backend must outlive it.
  template <class MakeFeed>
  Vit(B& backend, const VitConfig& config, const MakeFeed& make_feed)
      : Vit(root(backend), config, make_feed) {
    parameters().initialize(config.seed);
  }
  Vit(B& backend, const VitConfig& config) : Vit(backend, config, NoExperts{}) {}

  const VitConfig& config() const { return config_; }
  Index tokens_per_image() const { return config_.tokens(); }
  const std::vector<EncoderBlock<B>>& blocks() const { return blocks_; }
  Index input_width() const { return config_.pixels(); }
  Index output_width() const { return config_.classes; }
  Parameters<B>& parameters() const { return head_.parameters(); }
  B& backend() const { return head_.backend(); }
  Index moe_layers() const {
    Index n = 0;
    for (const EncoderBlock<B>& block : blocks_) n += block.moe_layers();
    return n;
  }
  void visit_routing(Tape& t, RoutingVisitor<B>& visitor) const {
    for (std::size_t i = 0; i < blocks_.size(); ++i) blocks_[i].visit_routing(t.blocks[i], visitor);
  }

  void bind(Arena<B>& arena, Index images, Tape& t) const {
    using T = typename B::Scalar;
    using Scope = typename Arena<B>::Scope;
    const Scope scope(arena);
    const Index width = config_.width;
    const Index rows = images * config_.tokens();
    t.state.bind(arena, images);
    t.stream.resize(blocks_.size() + 1);
    t.blocks.resize(blocks_.size());
    for (std::size_t i = 0; i < t.stream.size(); ++i)  // without gradients, two in turns will do
      t.stream[i] =
          i >= 2 && !arena.wants_input() ? t.stream[i - 2] : arena.template saved<T>(rows, width);
    t.pooled = arena.template saved_for_weights<T>(images, width);
    t.d_stream[0] = t.d_stream[1] = t.d_pooled = {};
    if (arena.wants_input()) {
      for (Matrix<B>& d : t.d_stream) d = arena.template scratch<T>(rows, width);
      t.d_pooled = arena.template scratch<T>(images, width);
    }
    {
      const Scope part(arena);
      t.embedded = arena.template scratch<T>(images, config_.grid().cells() * width);
      if (class_token_ && positions_)
        t.classed = arena.template scratch<T>(images, config_.tokens() * width);
      embedding_.bind(arena, images, t.embedding);
      if (class_token_) class_token_->bind(arena, images, t.class_token);
      if (positions_) positions_->bind(arena, images, t.positions);
    }
    for (std::size_t i = 0; i < blocks_.size(); ++i) blocks_[i].bind(arena, rows, t.blocks[i]);
    // No pooling needs its input for anything but gradients of weights.
    t.normed = arena.template saved_for_weights<T>(rows, width);
    norm_.bind(arena, rows, t.norm);
    pooling_.bind(arena, images, t.pooling);
    head_.bind(arena, images, t.head);
  }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    t.state.begin_forward_of_parts(who, x, y, input_width(), output_width(), pass);
    const Index images = x.rows;
    const Index rows = images * config_.tokens();
    if (pass.mask && pass.mask.size != rows)
      throw_shape(who, "::forward: pass.mask has ", pass.mask.size,
                  " entries, expected one for each of the ", rows, " tokens (", config_.tokens(),
                  " an image)");
    embed(x, t, pass);
    Index moe_layer = pass.moe_layer;
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      blocks_[i].forward(t.stream[i].top(rows), t.stream[i + 1].top(rows), t.blocks[i],
                         pass.at_layer(moe_layer));
      moe_layer += blocks_[i].moe_layers();
    }
    norm_.forward(t.stream.back().top(rows), t.normed.top(rows), t.norm, pass);
    pooling_.forward(by_image(t.normed, images), t.pooled.top(images), t.pooling, pass);
    head_.forward(t.pooled.top(images), y, t.head, pass);
    t.state.end_forward();
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    t.state.begin_backward_of_parts(who, dy, dx, input_width(), output_width());
    const Index images = dy.rows;
    const Index rows = images * config_.tokens();
    Matrix<B> d = t.d_stream[0].top(rows);
    Matrix<B> next = t.d_stream[1].top(rows);
    head_.backward(dy, t.d_pooled.top(images), t.head);
    pooling_.backward(t.d_pooled.top(images), by_image(next, images), t.pooling);
    norm_.backward(next, d, t.norm);
    for (std::size_t i = blocks_.size(); i-- > 0; std::swap(d, next))
      blocks_[i].backward(d, next, t.blocks[i]);
    embed_backward(by_image(d, images), dx, t);
  }

 private:
  static constexpr const char* who = "moxie::Vit";
  struct NoExperts {
    AnyLayer<B> operator()(const Scope<B>&, Index block) const {
      throw_config(who, ": moe_blocks holds ", block,
                   ", expected a third argument make_feed(scope, block) that makes its layer");
    }
  };
  static const VitConfig& checked(const VitConfig& config) {
    check(config);
    return config;
  }
  /// Declares what lies between embedding and pooling, in V-MoE's order, and gives the last of it.
  template <class MakeFeed>
  LayerNorm<B> declare(const Scope<B>& scope, const MakeFeed& make_feed) {
    const VitConfig& c = config_;
    if (c.class_token()) class_token_.emplace(scope, c.grid().cells(), c.width);
    if (c.positions != Positions::none)
      positions_.emplace(scope / "Encoder" / "posembed_input",
                         PositionConfig{.grid = c.grid(),
                                        .width = c.width,
                                        .class_token = c.class_token(),
                                        .kind = c.positions});
    const Scope<B> encoder = scope / "Encoder";
    blocks_.reserve(static_cast<std::size_t>(c.blocks));
    for (Index i = 0; i < c.blocks; ++i) {
      const Scope<B> at = encoder / ("encoderblock_" + std::to_string(i));
      const AttentionConfig sizes{.tokens = c.tokens(), .width = c.width, .heads = c.heads};
      blocks_.emplace_back(at, sizes,
                           c.is_moe(i)
                               ? AnyLayer<B>(make_feed(at / "Moe", i))
                               : AnyLayer<B>(Mlp<B>(at / "Mlp", c.width, c.hidden, c.width)));
    }
    return LayerNorm<B>(encoder / "encoder_norm", c.width);
  }
  AnyLayer<B> make_pooling(const Scope<B>& scope) const {
    const VitConfig& c = config_;
    if (c.pooling != Pooling::map) return SimplePooling<B>(scope, c.tokens(), c.width, c.pooling);
    return AttentionPooling<B>(
        scope / "MapHead",
        {.tokens = c.tokens(), .width = c.width, .heads = c.heads, .hidden = c.hidden});
  }
  /// Rows of tokens as rows of images; our own buffers have no gaps.
  Matrix<B> by_image(Matrix<B> tokens, Index images) const {
    return {tokens.data, images, config_.tokens() * config_.width};
  }
  void embed(ConstMatrix<B> x, Tape& t, const Pass<B>& pass) const {
    const Index images = x.rows;
    const Matrix<B> to = by_image(t.stream[0], images);
    Matrix<B> at = class_token_ || positions_ ? t.embedded.top(images) : to;
    embedding_.forward(x, at, t.embedding, pass);
    if (class_token_) {
      const Matrix<B> classed = positions_ ? t.classed.top(images) : to;
      class_token_->forward(at, classed, t.class_token, pass);
      at = classed;
    }
    if (positions_) positions_->forward(at, to, t.positions, pass);
  }
  void embed_backward(Matrix<B> d, Matrix<B> dx, Tape& t) const {
    if (positions_) positions_->backward(d, {}, t.positions);
    Matrix<B> d_embedded = d;
    if (class_token_) {
      d_embedded = t.embedded.top(d.rows);
      class_token_->backward(d, d_embedded, t.class_token);
    }
    embedding_.backward(d_embedded, dx, t.embedding);
  }

  // In the order of declaration, which is the order of the parameters.
  VitConfig config_;
  PatchEmbedding<B> embedding_;
  std::optional<ClassToken<B>> class_token_;
  std::optional<PositionEmbedding<B>> positions_;
  std::vector<EncoderBlock<B>> blocks_;
  LayerNorm<B> norm_;
  AnyLayer<B> pooling_;
  Linear<B> head_;
};

}  // namespace moxie
