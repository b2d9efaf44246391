#pragma once

#include <span>
#include <vector>

#include "moxie/core/memory.hpp"
#include "moxie/layer/given_routes.hpp"
#include "moxie/robust/attack.hpp"
#include "moxie/routing/record.hpp"

namespace moxie {

namespace detail {
/// Rows of the tokens of some images.
template <Backend B>
struct GatherRoutes {
  static constexpr bool one_level = true;
  Index tokens;  // an image
  ConstIntVector<B> image;
  ConstIntMatrix<B> choice;
  ConstMatrix<B> weight;
  IntMatrix<B> to_choice;
  Matrix<B> to_weight;

  MOXIE_HD void operator()(Index t) const {
    const Index from = image[t / tokens] * tokens + t % tokens;
    for (Index k = 0; k < choice.cols; ++k) {
      to_choice(t, k) = choice(from, k);
      to_weight(t, k) = weight(from, k);
    }
  }
};
}  // namespace detail

/// What the MoE layers of a model decided for a batch of images, in the backend's memory: experts,
/// drops and weights. It outlives the tape of the pass and can be replayed for some of the images.
/// Visit a model's tape with it, after `begin`. Memory is taken in the first pass that is recorded.
/// Errors: config_error for a layer where experts choose or that is soft: its tokens have no K
/// choices.
template <Backend B>
class RecordedRoutes final : public RoutingVisitor<B> {
  using T = typename B::Scalar;

 public:
  /// Room for passes of up to `images` images.
  RecordedRoutes(B& backend, Index images) : backend_(&backend), bound_(images) {}

  /// A pass of `images` images is about to be recorded.
  void begin(Index images) {
    if (images > bound_)
      throw_shape(who, ": the pass has ", images, " images, expected at most ", bound_);
    images_ = images;
    at_ = 0;
  }
  void sparse(const SparseRouting<B>& r) override {
    if (r.first)
      throw_config(who, ": in MoE layer ", at_,
                   " experts choose, tokens have no list of K choices that could be replayed");
    const Index choices = r.choice.cols;
    const Index tokens = images_ > 0 ? r.choice.rows / images_ : 0;
    if (at_ == layers_.size()) {
      const Index entries = bound_ * tokens * choices;
      layers_.push_back({.tokens = tokens,
                         .choices = choices,
                         .choice = {*backend_, entries},
                         .part_choice = {*backend_, entries},
                         .weight = {*backend_, entries},
                         .part_weight = {*backend_, entries}});
      routes_.emplace_back();
    }
    const LayerMemory& layer = layers_[at_++];
    if (layer.tokens != tokens || layer.choices != choices)
      throw_shape(who, ": MoE layer ", at_ - 1, " has ", tokens, " tokens an image and ", choices,
                  " choices, expected ", layer.tokens, " and ", layer.choices,
                  " as in the first pass");
    backend_->for_each(r.choice.rows, detail::RecordRow<B>{r, choice(layer), weight(layer)});
  }
  void soft(const SoftRouting<B>&) override {
    throw_config(who, ": MoE layer ", at_,
                 " is soft: its tokens have no list of K choices that could be replayed");
  }

  Index layers() const { return static_cast<Index>(at_); }
  /// [images * tokens, K] of the images of the recorded pass, entries as those of Routes.
  ConstIntMatrix<B> choice(Index layer) const { return choice(layers_[index(layer)]); }
  ConstMatrix<B> weight(Index layer) const { return weight(layers_[index(layer)]); }

  /// Routes of the given images, ascending, for a pass over them in this order; all layers. Valid
  /// until the next call.
  std::span<const Routes<B>> of(ConstIntVector<B> image) {
    for (std::size_t i = 0; i < at_; ++i) {
      const LayerMemory& layer = layers_[i];
      Routes<B>& routes = routes_[i];
      routes.weights = Routes<B>::Weights::given;
      routes.choice = choice(layer);
      routes.weight = weight(layer);
      if (image.size == images_) continue;
      const Index rows = image.size * layer.tokens;
      const IntMatrix<B> some{layer.part_choice.view().data, rows, layer.choices};
      const Matrix<B> their{layer.part_weight.view().data, rows, layer.choices};
      backend_->for_each(rows, detail::GatherRoutes<B>{layer.tokens, image, routes.choice,
                                                       routes.weight, some, their});
      routes.choice = some;
      routes.weight = their;
    }
    return {routes_.data(), at_};
  }

 private:
  static constexpr const char* who = "moxie::RecordedRoutes";
  struct LayerMemory {
    Index tokens = 0, choices = 0;
    Buffer<B, std::int32_t> choice, part_choice;
    Buffer<B, T> weight, part_weight;
  };
  static std::size_t index(Index layer) { return static_cast<std::size_t>(layer); }
  IntMatrix<B> choice(const LayerMemory& layer) const {
    return {layer.choice.view().data, images_ * layer.tokens, layer.choices};
  }
  Matrix<B> weight(const LayerMemory& layer) const {
    return {layer.weight.view().data, images_ * layer.tokens, layer.choices};
  }

  B* backend_;
  Index bound_ = 0;
  Index images_ = 0;
  std::size_t at_ = 0;
  std::vector<LayerMemory> layers_;
  std::vector<Routes<B>> routes_;
};

/// A model whose routing stays as it was for other images: experts, drops and gate weights, in
/// every MoE layer. An AttackTarget. The model must outlive it.
template <Layer L>
class FrozenRoutes {
 public:
  using BackendType = typename L::BackendType;
  using B = BackendType;

  /// Room for the routes of up to `images` images.
  FrozenRoutes(const L& model, Index images)
      : model_(&model), routes_(model.parameters().backend(), images) {
    pass_.mode = Mode::eval;
    pass_.gradients = Gradients::input;
    pass_.regularizers = false;
  }

  B& backend() const { return model_->parameters().backend(); }
  Index input_width() const { return model_->input_width(); }
  Index classes() const { return model_->output_width(); }

  void bind(Arena<B>& arena, Index images) {
    scores_ = arena.template kept<typename B::Scalar>(images, classes());
    model_->bind(arena, images, tape_);
  }
  /// The routes that stay are those of x [images, D], which are the images of the batches to come.
  void record(ConstMatrix<B> x) {
    routes_.begin(x.rows);
    model_->forward(x, scores_.top(x.rows), tape_, pass_);
    model_->visit_routing(tape_, routes_);
  }
  const RecordedRoutes<B>& routes() const { return routes_; }

  void scores(ConstMatrix<B> x, ConstIntVector<B> image, Matrix<B> scores) {
    model_->forward(x, scores, tape_, pass_.with(routes_.of(image)));
  }
  void gradient(ConstMatrix<B> d_scores, Matrix<B> dx) { model_->backward(d_scores, dx, tape_); }

 private:
  const L* model_;
  Pass<B> pass_;
  RecordedRoutes<B> routes_;
  Matrix<B> scores_;
  typename L::Tape tape_;
};

}  // namespace moxie
