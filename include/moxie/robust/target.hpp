#pragma once

#include "moxie/layer/concept.hpp"

/// An AttackTarget is what an attack asks: scores of images, and the gradient of anything made of
/// scores to the images. A model and how it is run: LayerTarget is a Layer in evaluation mode,
/// FrozenRoutes the same with routes that stay.
///
/// Members:
///   using BackendType;
///   B& backend() const; Index input_width() const, classes() const;
///   void bind(Arena<B>&, Index images);      takes the memory of passes of up to `images` images
///   void scores(ConstMatrix<B> x, ConstIntVector<B> image, Matrix<B> scores);
///       x: [n, D], scores: [n, classes]; image[r] says which image of the attacked batch row r is:
///       broken ones leave
///   void gradient(ConstMatrix<B> d_scores, Matrix<B> dx);      of the last scores, to their x
///
/// Laws:
///  * an image's scores and gradient do not depend on the images beside it;
///  * the same image gives the same bits every time: no noise, no dropout;
///  * no gradient of a parameter is computed or touched, and nothing of the model is different
///    afterwards;
///  * `scores` and `gradient` never allocate.
namespace moxie {

template <class M>
concept AttackTarget = Backend<typename M::BackendType> &&
    requires(M& target, const M& known, Arena<typename M::BackendType>& arena, Index images,
             ConstMatrix<typename M::BackendType> x, ConstIntVector<typename M::BackendType> image,
             Matrix<typename M::BackendType> y) {
  { known.backend() } -> std::same_as<typename M::BackendType&>;
  { known.input_width() } -> std::same_as<Index>;
  { known.classes() } -> std::same_as<Index>;
  target.bind(arena, images);
  target.scores(x, image, y);
  target.gradient(x, y);
};

/// A model as it is evaluated. Mode is told to each pass and is no state of a layer, so there is
/// nothing to switch back: a training pass may be pending on another tape. The model must outlive
/// it.
///
/// Images must not compete for slots (groups of one image, or a capacity under which nothing
/// drops): otherwise what one image gets depends on who left the batch.
template <Layer L>
class LayerTarget {
 public:
  using BackendType = typename L::BackendType;
  using B = BackendType;

  /// `pass` may name routes by rank; mode, gradients and regularizers are those of an attack.
  /// @throws config_error for a pass with a mask, pairs or routes of certain tokens
  explicit LayerTarget(const L& model, const Pass<B>& pass = {}) : model_(&model), pass_(pass) {
    pass_.mode = Mode::eval;
    pass_.gradients = Gradients::input;
    pass_.regularizers = false;
    if (pass.mask || pass.pairs)
      throw_config(
          "moxie::LayerTarget: the pass has a mask or pairs, expected none: images leave the "
          "batch");
    for (const Routes<B>& r : pass.routes)
      if (r.choice)
        throw_config(
            "moxie::LayerTarget: the pass names routes of certain tokens, expected none or routes "
            "by rank: images leave the batch (FrozenRoutes takes theirs along)");
  }

  B& backend() const { return model_->parameters().backend(); }
  Index input_width() const { return model_->input_width(); }
  Index classes() const { return model_->output_width(); }
  const L& model() const { return *model_; }

  void bind(Arena<B>& arena, Index images) { model_->bind(arena, images, tape_); }
  void scores(ConstMatrix<B> x, ConstIntVector<B> /*image*/, Matrix<B> scores) {
    model_->forward(x, scores, tape_, pass_);
  }
  void gradient(ConstMatrix<B> d_scores, Matrix<B> dx) { model_->backward(d_scores, dx, tape_); }
  /// Of the last scores: for visitors of routing.
  typename L::Tape& tape() { return tape_; }

 private:
  const L* model_;
  Pass<B> pass_;
  typename L::Tape tape_;
};

}  // namespace moxie
