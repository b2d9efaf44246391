#pragma once

#include <memory>

#include "model.hpp"
#include "moxie/robust/dual_model.hpp"

namespace vmoe {

/// The plan of a mixture whose router looks at whole images and whose experts are whole networks.
/// plan.vit is then how the mixture looks from outside: one patch, the image, and one MoE layer
/// (two in a dual model: that of the standard and that of the robust one).
/// @throws moxie::config_error if an option makes no sense or does not fit the images
ModelPlan plan_image_moe(const Options& options, const ImageShape& image, Index classes);

/// The mixture that the plan says, inside a model.   @throws moxie::config_error
Model make_image_moe(const moxie::Scope<Backend>& scope, const Options& options,
                     const ModelPlan& plan);

/// A Layer that shares a model: the parts of a dual model are also attacked alone.
class SharedModel {
 public:
  using BackendType = Backend;
  using Tape = Model::Tape;

  explicit SharedModel(std::shared_ptr<const Model> model) : model_(std::move(model)) {}
  const Model& model() const { return *model_; }
  Index input_width() const { return model_->input_width(); }
  Index output_width() const { return model_->output_width(); }
  moxie::Parameters<Backend>& parameters() const { return model_->parameters(); }
  Index moe_layers() const { return model_->moe_layers(); }
  void visit_routing(Tape& tape, moxie::RoutingVisitor<Backend>& visitor) const {
    model_->visit_routing(tape, visitor);
  }
  void bind(moxie::Arena<Backend>& arena, Index rows, Tape& tape) const {
    model_->bind(arena, rows, tape);
  }
  void forward(moxie::ConstMatrix<Backend> x, moxie::Matrix<Backend> y, Tape& tape,
               const moxie::Pass<Backend>& pass) const {
    model_->forward(x, y, tape, pass);
  }
  void backward(moxie::ConstMatrix<Backend> dy, moxie::Matrix<Backend> dx, Tape& tape) const {
    model_->backward(dy, dx, tape);
  }

 private:
  std::shared_ptr<const Model> model_;
};

using Dual = moxie::DualModel<SharedModel, SharedModel>;

/// The dual model of --objective jtdmoe: two models of the same options, in the scopes Standard and
/// Robust, with parameters initialized from options.seed.
Dual make_dual(Backend& backend, const Options& options, const ModelPlan& plan);

}  // namespace vmoe
