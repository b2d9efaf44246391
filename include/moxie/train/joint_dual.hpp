#pragma once

#include <string_view>
#include <utility>

#include "moxie/robust/dual_model.hpp"
#include "moxie/train/step.hpp"

namespace moxie::train {

struct JointOptions {
  enum class Upper {
    both,     ///< published
    standard  ///< released: the robust model learns from the lower level alone
  };
  Upper upper = Upper::both;
  StepOptions step{};
};

/// JTDMoE: one step of the joint training of a dual model, bi-level and alternating.
///   lower: an objective of the robust model alone (RtEr); updates the robust model alone
///   upper: an objective of the dual model with the robust part as it now is (Supervised, on clean
///          images); updates both models, or the standard one alone
///
///   train::JointDualStep step{model, RtEr{}, Supervised{}, AdamW{}, 64};  // images
///   step(batch, schedule(t), {.seed = 1, .step = t});
///
/// Each level has its own optimizer state, so a lower step changes no bit of the standard model or
/// of what the upper optimizer remembers. The model must outlive it; memory is taken when it is
/// made. Both levels take the same batch; a scheduler moves once a step.
/// Source: Zhang et al. 2025 (RT-ER, JTDMoE).
template <class D, Objective<std::remove_cvref_t<decltype(std::declval<const D&>().robust())>> Low,
          Objective<D> Up, Optimizer<typename D::BackendType> P>
class JointDualStep {
  using B = typename D::BackendType;
  using Robust = std::remove_cvref_t<decltype(std::declval<const D&>().robust())>;

 public:
  using Lower = Step<Robust, Low, P>;
  using Upper = Step<D, Up, P>;

  /// Room for batches of up to `images`. `standard` and `robust` are the Scopes of the two models.
  /// @throws config_error if there is no such Scope
  JointDualStep(const D& model, Low lower, Up upper, P optimizer, Index images,
                JointOptions options = {}, std::string_view standard = "Standard",
                std::string_view robust = "Robust")
      : model_(&model),
        lower_(model.robust(), std::move(lower), optimizer, model.parameters().range(robust),
               images, options.step),
        upper_(model, std::move(upper), optimizer,
               options.upper == JointOptions::Upper::both ? model.parameters().range()
                                                          : model.parameters().range(standard),
               images, options.step) {
    check();
  }

  /// Both levels, in order.   Errors: as Step, and config_error for a model that mixes
  /// probabilities: a loss wants scores, so train with the logarithm of the mixture and evaluate
  /// the mixture. A level that throws updates nothing; where the upper one throws (a gradient that
  /// is not finite, say), the lower one's update of the robust model and of its own optimizer
  /// stands, and calling again would repeat it.
  void operator()(const Batch<B>& batch, double learning_rate, const Pass<B>& pass) {
    check();
    lower_(batch, learning_rate, pass);
    upper_(batch, learning_rate, pass);
  }
  /// The levels, for a schedule of one's own, and what a checkpoint keeps of each.
  Lower& lower() { return lower_; }
  Upper& upper() { return upper_; }
  const Lower& lower() const { return lower_; }
  const Upper& upper() const { return upper_; }

 private:
  void check() const {
    if (model_->options().space == DualSpace::probability)
      throw_config(
          "moxie::train::JointDualStep: the model mixes probabilities, expected "
          "DualSpace::logit or log_probability in training: the loss takes scores");
  }
  const D* model_;
  Lower lower_;
  Upper upper_;
};

template <class D, class Low, class Up, class P, class... More>
JointDualStep(const D&, Low, Up, P, More...) -> JointDualStep<D, Low, Up, P>;

}  // namespace moxie::train
