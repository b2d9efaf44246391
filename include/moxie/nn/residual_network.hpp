#pragma once

#include <string>
#include <vector>

#include "moxie/nn/pooling.hpp"
#include "moxie/nn/residual_block.hpp"

namespace moxie {

/// Sizes of a residual network.
struct ResidualConfig {
  Index image_height = 32;
  Index image_width = 32;
  Index channels = 3;
  Index stem_stride = 1;  ///< of the first convolution
  /// Channels of each stage; each stage but the first halves height and width.
  std::vector<Index> widths{16, 32, 64};
  Index blocks = 1;  ///< a stage
  Index classes = 10;
  PixelNorm norm = PixelNorm::layer;
  std::uint64_t seed = 0;

  Index pixels() const { return image_height * image_width * channels; }
  friend bool operator==(const ResidualConfig&, const ResidualConfig&) = default;
};

/// A small residual convolutional network: images to class scores. x: [images, height * width *
/// channels], pixel by pixel, channels last; y: [images, classes].
///
///   3 x 3 convolution -> blocks (ResidualBlock) -> norm, activation -> mean over pixels -> head
///
/// An image's scores depend on no other image, in training and in evaluation alike: there is no
/// batch norm. Parameters: stem/..., block_i/..., norm/..., head/....
/// Source: He et al. 2016, with the changes that stand at ResidualBlock.
template <Backend B, class A = Relu>
class ResidualNetwork {
 public:
  using BackendType = B;
  struct Tape {
    detail::PassState<B> state;
    std::vector<Matrix<B>> stream;  // [images, pixels * channels] before each block, and after
    Matrix<B> pre, act;             // [images * pixels, channels] of the last block
    Matrix<B> pooled, d_pooled;     // [images, channels]
    Vector<B> d_stream[2];          // before and after a block, in turns
    typename Convolution<B>::Tape stem;
    std::vector<typename ResidualBlock<B, A>::Tape> blocks;
    typename LayerNorm<B>::Tape norm;
    typename SimplePooling<B>::Tape pooling;
    typename Linear<B>::Tape head;
  };

  /// Inside a model.   @throws config_error for sizes that make no sense
  ResidualNetwork(const Scope<B>& scope, const ResidualConfig& config)
      : config_(checked(config)),
        stem_(scope / "stem",
              {.height = config.image_height,
               .width = config.image_width,
               .channels = config.channels,
               .stride = config.stem_stride},
              config.widths[0]),
        norm_(declare(scope)),
        pooling_(scope, last_pixels(), config.widths.back(), Pooling::mean),
        head_(scope / "head", config.widths.back(), config.classes,
              {.kernel_start = Initializer::lecun_normal(config.widths.back())}) {}
  /// A model of its own, initialized with config.seed. The backend must outlive it.
  ResidualNetwork(B& backend, const ResidualConfig& config)
      : ResidualNetwork(root(backend), config) {
    parameters().initialize(config.seed);
  }

  const ResidualConfig& config() const { return config_; }
  const Convolution<B>& stem() const { return stem_; }
  const std::vector<ResidualBlock<B, A>>& blocks() const { return blocks_; }
  const Linear<B>& head() const { return head_; }
  Index input_width() const { return config_.pixels(); }
  Index output_width() const { return config_.classes; }
  Parameters<B>& parameters() const { return head_.parameters(); }

  void bind(Arena<B>& arena, Index images, Tape& t) const {
    using T = typename B::Scalar;
    const typename Arena<B>::Scope scope(arena);
    t.state.bind(arena, images);
    t.stream.resize(blocks_.size() + 1);
    t.blocks.resize(blocks_.size());
    const Index widest = images * widest_stream();
    Vector<B> turns[2];
    if (!arena.wants_input())  // two in turns will do
      for (Vector<B>& v : turns) v = arena.template scratch<T>(widest);
    for (std::size_t i = 0; i < t.stream.size(); ++i)
      t.stream[i] = arena.wants_input() ? arena.template saved<T>(images, stream_width(i))
                                        : Matrix<B>(turns[i % 2].data, images, stream_width(i));
    const Index pixels = images * last_pixels();
    const Index channels = config_.widths.back();
    if (norm_) t.pre = arena.template saved<T>(pixels, channels);
    t.pooled = arena.template saved_for_weights<T>(images, channels);
    t.act = arena.template scratch<T>(pixels, channels);
    t.d_pooled = {};
    t.d_stream[0] = t.d_stream[1] = {};
    if (arena.wants_input()) {
      t.d_pooled = arena.template scratch<T>(images, channels);
      for (Vector<B>& d : t.d_stream) d = arena.template scratch<T>(widest);
    }
    stem_.bind(arena, images, t.stem);
    for (std::size_t i = 0; i < blocks_.size(); ++i) blocks_[i].bind(arena, images, t.blocks[i]);
    if (norm_) norm_->bind(arena, pixels, t.norm);
    pooling_.bind(arena, images, t.pooling);
    head_.bind(arena, images, t.head);
  }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    t.state.begin_forward(who, x, y, input_width(), output_width(), pass);
    B& b = parameters().backend();
    const Index images = x.rows;
    stem_.forward(x, t.stream[0].top(images), t.stem, pass);
    for (std::size_t i = 0; i < blocks_.size(); ++i)
      blocks_[i].forward(t.stream[i].top(images), t.stream[i + 1].top(images), t.blocks[i], pass);
    const ConstMatrix<B> last = by_pixel(t.stream.back(), images);
    if (norm_) norm_->forward(last, t.pre.top(last.rows), t.norm, pass);
    const Matrix<B> act = t.act.top(last.rows);
    activate<A>(b, before(t, last), act);
    pooling_.forward(by_image(act, images), t.pooled.top(images), t.pooling, pass);
    head_.forward(t.pooled.top(images), y, t.head, pass);
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    t.state.begin_backward(who, dy, dx, input_width(), output_width());
    B& b = parameters().backend();
    const Index images = dy.rows;
    head_.backward(dy, t.d_pooled.top(images), t.head);
    const Matrix<B> d_act = t.act.top(images * last_pixels());
    pooling_.backward(t.d_pooled.top(images), by_image(d_act, images), t.pooling);
    const ConstMatrix<B> last = by_pixel(t.stream.back(), images);
    activation_backward<A>(b, ConstIntVector<B>{}, before(t, last), d_act);
    std::size_t turn = 0;
    const auto d_of = [&](std::size_t i, std::size_t which) {
      return Matrix<B>(t.d_stream[which].data, images, stream_width(i));
    };
    Matrix<B> d = by_image(d_act, images);
    if (norm_) {
      d = d_of(blocks_.size(), turn);
      norm_->backward(d_act, by_pixel(d, images), t.norm);
    }
    for (std::size_t i = blocks_.size(); i-- > 0;) {
      turn = 1 - turn;
      const Matrix<B> next = d_of(i, turn);
      blocks_[i].backward(d, next, t.blocks[i]);
      d = next;
    }
    stem_.backward(d, dx, t.stem);
  }

 private:
  static constexpr const char* who = "moxie::ResidualNetwork";
  static const ResidualConfig& checked(const ResidualConfig& c) {
    if (c.widths.empty()) throw_config(who, ": widths is empty, expected one number a stage");
    for (const Index w : c.widths) detail::require_positive(who, "widths", w);
    detail::require_positive(who, "blocks", c.blocks);
    detail::require_positive(who, "classes", c.classes);
    return c;
  }
  /// Declares what lies between stem and pooling, in the order in which it runs, and gives the last
  /// of it.
  std::optional<LayerNorm<B>> declare(const Scope<B>& scope) {
    Index height = stem_.shape().down(), width = stem_.shape().across();
    Index channels = config_.widths[0];
    for (std::size_t stage = 0; stage < config_.widths.size(); ++stage)
      for (Index i = 0; i < config_.blocks; ++i) {
        blocks_.emplace_back(
            scope / ("block_" + std::to_string(blocks_.size())),
            typename ResidualBlock<B, A>::Shape{.height = height,
                                                .width = width,
                                                .channels = channels,
                                                .output = config_.widths[stage],
                                                .stride = stage > 0 && i == 0 ? 2 : 1,
                                                .norm = config_.norm});
        height = blocks_.back().output_shape().height;
        width = blocks_.back().output_shape().width;
        channels = config_.widths[stage];
      }
    if (config_.norm == PixelNorm::none) return std::nullopt;
    return LayerNorm<B>(scope / "norm", channels);
  }
  Index last_pixels() const {
    const WindowShape& s = blocks_.back().output_shape();
    return s.height * s.width;
  }
  Index stream_width(std::size_t i) const {
    return i < blocks_.size() ? blocks_[i].input_width() : blocks_.back().output_width();
  }
  Index widest_stream() const {
    Index most = 0;
    for (std::size_t i = 0; i <= blocks_.size(); ++i)
      if (stream_width(i) > most) most = stream_width(i);
    return most;
  }
  ConstMatrix<B> before(const Tape& t, ConstMatrix<B> last) const {
    return norm_ ? ConstMatrix<B>(t.pre.top(last.rows)) : last;
  }
  Matrix<B> by_pixel(Matrix<B> of, Index images) const {
    return {of.data, images * last_pixels(), config_.widths.back()};
  }
  Matrix<B> by_image(Matrix<B> of, Index images) const {
    return {of.data, images, last_pixels() * config_.widths.back()};
  }

  // In the order of declaration, which is the order of the parameters.
  ResidualConfig config_;
  Convolution<B> stem_;
  std::vector<ResidualBlock<B, A>> blocks_;
  std::optional<LayerNorm<B>> norm_;
  SimplePooling<B> pooling_;
  Linear<B> head_;
};

}  // namespace moxie
