#pragma once

#include <span>
#include <vector>

#include "moxie/core/memory.hpp"
#include "moxie/ops/argmax.hpp"
#include "moxie/ops/copy_rows.hpp"
#include "moxie/robust/attack.hpp"
#include "moxie/routing/record.hpp"

namespace moxie {

/// What routers are driven away from.
enum class RouterLoss {
  divergence,  ///< all they say of the clean image: KL(p(clean) || p(x))
  preference   ///< the expert that they prefer there: cross-entropy of p(x) against it
};

namespace detail {
/// Logits of certainty: of the softmax only the token's first choice is left, whatever its router
/// selects by (where overflow moves tokens on, NextChoice, the expert that it got); where experts
/// choose, that of the largest logit, the lower of equal ones.
template <Backend B>
struct PreferredLogits {
  static constexpr bool one_level = true;
  ConstIntMatrix<B> choice;  // [T, K]; empty where experts choose
  Matrix<B> logits;

  MOXIE_HD void operator()(Index t) const {
    const Index best = choice ? choice(t, 0) : argmax(logits.row(t), logits.cols);
    for (Index e = 0; e < logits.cols; ++e)
      logits(t, e) = e == best ? typename B::Scalar(0) : typename B::Scalar(-1e4);
  }
};
/// Rows of the tokens of some images.
template <Backend B>
struct GatherLogits {
  Index tokens;  // an image
  ConstIntVector<B> image;
  ConstMatrix<B> from;
  Matrix<B> to;

  MOXIE_HD MOXIE_INLINE void operator()(Index t, Index e) const {
    to(t, e) = from(image[t / tokens] * tokens + t % tokens, e);
  }
};

/// The gates' logits of every MoE layer for a batch of images. Visit a model's tape with it, after
/// `begin`. Memory is taken in the first pass that is recorded.
template <Backend B>
class RecordedLogits final : public RoutingVisitor<B> {
  using T = typename B::Scalar;

 public:
  RecordedLogits(B& backend, Index images, RouterLoss loss)
      : backend_(&backend), bound_(images), loss_(loss) {}

  /// A pass of `images` images is about to be recorded.
  void begin(Index images) {
    images_ = images;
    at_ = 0;
  }
  void sparse(const SparseRouting<B>& r) override {
    const Index tokens = images_ > 0 ? r.logits.rows / images_ : 0;
    const Index experts = r.logits.cols;
    if (at_ == layers_.size()) {
      layers_.push_back({.tokens = tokens,
                         .experts = experts,
                         .logits = {*backend_, bound_ * tokens * experts},
                         .part = {*backend_, bound_ * tokens * experts}});
      anchors_.emplace_back();
    }
    const LayerMemory& layer = layers_[at_++];
    const Matrix<B> own(layer.logits.view().data, r.logits.rows, experts);
    copy_rows(*backend_, ConstMatrix<B>(r.logits), own);
    if (loss_ != RouterLoss::preference) return;
    const ConstIntMatrix<B> choice = r.first ? ConstIntMatrix<B>{} : ConstIntMatrix<B>(r.choice);
    backend_->for_each(own.rows, PreferredLogits<B>{choice, own});
  }
  void soft(const SoftRouting<B>&) override {
    throw_config("moxie::RouterDivergence: MoE layer ", at_,
                 " is soft: its tokens have no probabilities of experts to move away from");
  }
  Index layers() const { return static_cast<Index>(at_); }

  /// What routers move away from, of the given images of the recorded pass, ascending: the mean
  /// over an image's tokens, summed over images and layers. Valid until the next call.
  std::span<const RouterAnchor<B>> of(ConstIntVector<B> image) {
    for (std::size_t i = 0; i < at_; ++i) {
      const LayerMemory& layer = layers_[i];
      const ConstMatrix<B> all(layer.logits.view().data, images_ * layer.tokens, layer.experts);
      anchors_[i] = {.logits = all, .factor = 1.0 / static_cast<double>(layer.tokens)};
      if (image.size == images_) continue;
      const Matrix<B> some(layer.part.view().data, image.size * layer.tokens, layer.experts);
      backend_->for_each(some.rows, some.cols, GatherLogits<B>{layer.tokens, image, all, some});
      anchors_[i].logits = some;
    }
    return {anchors_.data(), at_};
  }

 private:
  struct LayerMemory {
    Index tokens = 0, experts = 0;
    Buffer<B, T> logits, part;
  };
  B* backend_;
  Index bound_ = 0;
  RouterLoss loss_;
  Index images_ = 0;
  std::size_t at_ = 0;
  std::vector<LayerMemory> layers_;
  std::vector<RouterAnchor<B>> anchors_;
};
}  // namespace detail

/// A model whose routers are to say something else than of the clean images:
///   J(x) = sum over MoE layers of the mean over tokens of KL(p(clean) || p(x)),  p = softmax(z),
/// z the gates' logits; of the preference, p(clean) has all its mass on the token's first choice, by
/// the router's bias and groups, if it has any, and after NextChoice has moved it on. `scores` are the model's, but `gradient` is
/// that of J, whatever it is given: an attack by steps along the gradient (Pgd::perturb) climbs J.
/// The divergence's gradient is 0 at the clean image. The outputs of experts are no part of J, but
/// those of lower layers are what the higher ones look at. The model must outlive it.
template <Layer L>
class RouterDivergence {
 public:
  using BackendType = typename L::BackendType;
  using B = BackendType;

  /// Room for up to `images` images.
  RouterDivergence(const L& model, Index images, RouterLoss loss = RouterLoss::divergence)
      : model_(&model), logits_(model.parameters().backend(), images, loss) {
    pass_.mode = Mode::eval;
    pass_.gradients = Gradients::input;
    pass_.regularizers = false;
  }

  B& backend() const { return model_->parameters().backend(); }
  Index input_width() const { return model_->input_width(); }
  Index classes() const { return model_->output_width(); }

  void bind(Arena<B>& arena, Index images) {
    scores_ = arena.template kept<typename B::Scalar>(images, classes());
    zeros_ = arena.template kept<typename B::Scalar>(images, classes());
    model_->bind(arena, images, tape_);
  }
  /// Clean is x [images, D], of the batches to come.
  /// @throws config_error for a soft layer
  void record(ConstMatrix<B> x) {
    logits_.begin(x.rows);
    model_->forward(x, scores_.top(x.rows), tape_, pass_);
    model_->visit_routing(tape_, logits_);
  }
  /// MoE layers of the recorded pass.
  Index layers() const { return logits_.layers(); }

  void scores(ConstMatrix<B> x, ConstIntVector<B> image, Matrix<B> scores) {
    Pass<B> pass = pass_;
    pass.anchors = logits_.of(image);
    model_->forward(x, scores, tape_, pass);
  }
  void gradient(ConstMatrix<B> d_scores, Matrix<B> dx) {
    const Matrix<B> zeros = zeros_.top(d_scores.rows);
    backend().fill(Vector<B>(zeros.data, zeros.size()), 0);
    model_->backward(ConstMatrix<B>(zeros), dx, tape_);
  }

 private:
  const L* model_;
  Pass<B> pass_;
  detail::RecordedLogits<B> logits_;
  Matrix<B> scores_, zeros_;
  typename L::Tape tape_;
};

}  // namespace moxie
