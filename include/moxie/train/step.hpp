#pragma once

#include <optional>
#include <utility>

#include "moxie/ops/first_non_finite.hpp"
#include "moxie/optimizer/clip.hpp"
#include "moxie/optimizer/concept.hpp"
#include "moxie/train/objective.hpp"

namespace moxie::train {

struct StepOptions {
  std::optional<ClipByGlobalNorm> clip{};
  /// Look for NaN and infinity in the gradients before they are used; costs one wait for the device
  /// a step.
  bool check_finite = true;
};

/// One training step of a range of a model's parameters: zero the gradients, accumulate those of an
/// objective, clip them, update. Parameters outside the range keep their bits. The model must
/// outlive it.
///
///   train::Step step{model, Supervised{}, AdamW{}, model.parameters().range(), 64};  // images
///   step(batch, schedule(t), {.seed = 1, .step = t});
///
/// Memory is taken when it is made; a step allocates nothing.
template <Layer M, Objective<M> O, Optimizer<typename M::BackendType> P>
class Step {
  using B = typename M::BackendType;

 public:
  using OptimizerState = typename P::template State<B>;
  using ObjectiveState = typename O::template State<M>;

  /// Room for batches of up to `images`.
  Step(const M& model, O objective, P optimizer, ParameterRange range, Index images,
       StepOptions options = {})
      : model_(&model),
        objective_(std::move(objective)),
        optimizer_(std::move(optimizer)),
        range_(range),
        options_(options),
        objective_state_(objective_, model, images),
        optimizer_state_(optimizer_, model.parameters()),
        norm_(model.parameters()),
        found_(model.parameters().backend(), sizeof(std::int64_t)),
        scratch_(model.parameters().backend(), first_non_finite_bytes(model.parameters().size())) {}

  /// Errors: numeric_error naming the tensor, its first bad element and the step, before anything
  /// is updated; and what the objective and the optimizer throw.
  void operator()(const Batch<B>& batch, double learning_rate, const Pass<B>& pass) {
    Parameters<B>& parameters = model_->parameters();
    parameters.zero_gradients();
    objective_.accumulate(*model_, batch, *objective_state_, pass);
    if (options_.clip) {
      (*options_.clip)(parameters, range_, norm_);
    } else {
      ClipByGlobalNorm::measure(parameters, range_, norm_);
    }
    if (options_.check_finite) check_finite(pass.step);
    optimizer_.update(parameters, range_, optimizer_state_, learning_rate);
    parameters.after_step(range_);
  }

  /// Scores and losses of the last batch.
  const ObjectiveState& objective_state() const { return *objective_state_; }
  ObjectiveState& objective_state() { return *objective_state_; }
  /// What a checkpoint keeps.
  OptimizerState& optimizer_state() { return optimizer_state_; }
  const ParameterRange& range() const { return range_; }
  /// Norm of the range's gradients in the last step, before clipping. Blocks.
  double read_gradient_norm() const { return norm_.read_norm(model_->parameters().backend()); }

 private:
  // A norm is finite only if every element is: the element is looked for when something is wrong.
  void check_finite(std::uint64_t step) {
    Parameters<B>& parameters = model_->parameters();
    B& backend = parameters.backend();
    const double norm = norm_.read_norm(backend);
    if (math::is_finite(norm)) return;
    const VectorView<std::int64_t, typename B::Space> found{
        reinterpret_cast<std::int64_t*>(found_.data()), 1};
    const Scratch<B> scratch{scratch_.data(), static_cast<Index>(scratch_.bytes())};
    for (const ParameterRange::Run& run : {range_.shared, range_.experts}) {
      first_non_finite(backend, parameters.gradients().middle(run.first, run.size), found, scratch);
      const Index at = read_first_non_finite(backend, found);
      if (at < 0) continue;
      for (const ParameterEntry& e : parameters.entries()) {
        const Index element = run.first + at - e.offset;
        if (!e.trained || element < 0 || element >= e.size()) continue;
        throw_numeric("moxie::train::Step: the gradient of '", e.name,
                      "' is not finite, first at element ", element, " of ", e.size(), ", in step ",
                      step);
      }
    }
    throw_numeric("moxie::train::Step: the norm of the gradients is ", norm, " in step ", step,
                  " though each element is finite");
  }

  const M* model_;
  O objective_;
  P optimizer_;
  ParameterRange range_;
  StepOptions options_;
  OwnedObjectiveState<M, O> objective_state_;
  OptimizerState optimizer_state_;
  ClipByGlobalNorm::State<B> norm_;
  Memory<B> found_, scratch_;
};

}  // namespace moxie::train
