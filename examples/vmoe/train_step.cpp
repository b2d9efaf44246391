#include "train_step.hpp"

#include "moxie/optimizer/adam_w.hpp"
#include "moxie/optimizer/sgd.hpp"
#include "moxie/train/warm_start.hpp"
#include "pixel_model.hpp"
#include "require_finite.hpp"
#include "robust_options.hpp"
#include "trained_model.hpp"

namespace vmoe {
namespace {

moxie::train::StepOptions step_options(const Options& o) { return joint_options_of(o).step; }

template <class S>
void require_finite_moments(const moxie::Parameters<Backend>& parameters, const S& state) {
  for (const auto& moment : state.moments())
    require_finite(parameters, moment.values,
                   moxie::detail::message("the optimizer's ", moment.name, " of"));
}

/// The divergence of an objective with its weight.
template <class S>
LossSums weighted_divergence(Backend& backend, const S& state, double beta) {
  const std::vector<float> images = state.read_consistency(backend);
  if (images.empty()) return {};
  double sum = 0;
  for (const float v : images) sum += static_cast<double>(v);
  return {{"divergence", beta * sum / static_cast<double>(images.size())}};
}

/// One model, one objective.
template <class Optimizer>
class SingleStep final : public TrainStep {
 public:
  SingleStep(Session& s, const Optimizer& optimizer, Index rows)
      : s_(s),
        fed_(is_adversarial(s.options)
                 ? std::optional<Model>(PixelModel(s.model, s.normalization, s.data.train.shape))
                 : std::nullopt),
        step_(model(), objective_of(s.options), optimizer, s.model.parameters().range(), rows,
              step_options(s.options)) {}

  bool takes_pixels() const override { return fed_.has_value(); }
  void run(const moxie::Batch<Backend>& batch, double learning_rate,
           const moxie::Pass<Backend>& pass) override {
    step_(batch, learning_rate, pass);
  }
  moxie::ConstMatrix<Backend> scores() const override { return step_.objective_state().scores(); }
  std::vector<float> losses() override { return step_.objective_state().read_losses(s_.backend); }
  LossSums parts() override {
    return weighted_divergence(s_.backend, step_.objective_state(), s_.options.beta);
  }
  void visit(moxie::RoutingVisitor<Backend>& visitor) override {
    model().visit_routing(step_.objective_state().tape(), visitor);
  }
  double gradient_norm() const override { return step_.read_gradient_norm(); }
  void save(const std::filesystem::path& file, const moxie::Metadata& metadata) override {
    const auto& parameters = s_.model.parameters();
    require_finite(parameters, parameters.values(), "the parameter");
    require_finite_moments(parameters, step_.optimizer_state());
    moxie::save_checkpoint(file, parameters, metadata,
                           moxie::NamedState{"optimizer", step_.optimizer_state()});
  }
  moxie::Metadata load(const std::filesystem::path& file) override {
    return moxie::load_checkpoint(file, s_.model.parameters(),
                                  moxie::NamedState{"optimizer", step_.optimizer_state()});
  }

 private:
  const Model& model() const { return fed_ ? *fed_ : s_.model; }

  Session& s_;
  std::optional<Model> fed_;
  moxie::train::Step<Model, TrainObjective, Optimizer> step_;
};

/// Two models, trained jointly.
template <class Optimizer>
class JointStep final : public TrainStep {
  using Pixels = moxie::DualModel<PixelModel, PixelModel>;

 public:
  JointStep(Session& s, const Optimizer& optimizer, Index rows)
      : s_(s),
        dual_(part(s.dual->standard()), part(s.dual->robust()), s.dual->options()),
        step_(dual_, TrainObjective{rt_er_of(s.options)}, moxie::Supervised{}, optimizer, rows,
              joint_options_of(s.options)) {}

  bool takes_pixels() const override { return true; }
  void run(const moxie::Batch<Backend>& batch, double learning_rate,
           const moxie::Pass<Backend>& pass) override {
    step_(batch, learning_rate, pass);
  }
  moxie::ConstMatrix<Backend> scores() const override {
    return moxie::ConstMatrix<Backend>(upper().scores);
  }
  std::vector<float> losses() override {
    std::vector<float> all = upper().read_losses(s_.backend);
    const std::vector<float> lower = step_.lower().objective_state().read_losses(s_.backend);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] += lower[i];
    return all;
  }
  LossSums parts() override {
    auto& lower = step_.lower().objective_state();
    LossSums sums = weighted_divergence(s_.backend, lower, s_.options.beta);
    double sum = 0;
    const std::vector<float> images = lower.read_losses(s_.backend);
    for (const float v : images) sum += static_cast<double>(v);
    sums["lower"] = sum / static_cast<double>(images.size());
    return sums;
  }
  void visit(moxie::RoutingVisitor<Backend>& visitor) override {
    dual_.visit_routing(step_.upper().objective_state().tape, visitor);
  }
  void visit_lower(moxie::RoutingVisitor<Backend>& visitor) override {
    dual_.robust().visit_routing(step_.lower().objective_state().tape(), visitor);
  }
  double gradient_norm() const override { return step_.upper().read_gradient_norm(); }
  void save(const std::filesystem::path& file, const moxie::Metadata& metadata) override {
    const auto& parameters = s_.model.parameters();
    require_finite(parameters, parameters.values(), "the parameter");
    require_finite_moments(parameters, step_.lower().optimizer_state());
    require_finite_moments(parameters, step_.upper().optimizer_state());
    moxie::save_checkpoint(file, parameters, metadata,
                           moxie::NamedState{"lower", step_.lower().optimizer_state()},
                           moxie::NamedState{"upper", step_.upper().optimizer_state()});
  }
  moxie::Metadata load(const std::filesystem::path& file) override {
    return moxie::load_checkpoint(file, s_.model.parameters(),
                                  moxie::NamedState{"lower", step_.lower().optimizer_state()},
                                  moxie::NamedState{"upper", step_.upper().optimizer_state()});
  }
  void warm_start() override {
    take(s_.options.warm_standard, "Standard");
    take(s_.options.warm_robust, "Robust");
  }

 private:
  const moxie::Supervised::State<Pixels>& upper() const { return step_.upper().objective_state(); }
  PixelModel part(const SharedModel& model) const {
    return {model.model(), s_.normalization, s_.data.train.shape};
  }
  /// A model that was trained by itself, on the same images.
  void take(const std::string& path, const char* scope) {
    if (path.empty()) return;
    const std::filesystem::path file = newest_checkpoint(path);
    const CheckpointInfo info = CheckpointInfo::read(file);
    if (info.normalization != s_.normalization || info.classes != s_.data.classes)
      moxie::throw_config("vmoe: '", file.string(),
                          "' was trained on other images or classes, expected those of this run");
    require_same_network("vmoe", s_.options, "this run", info.options, file);
    const ModelPlan plan = plan_model(info.options, info.image, s_.classes());
    const Model alone = make_model(s_.backend, info.options, plan);
    moxie::load_checkpoint(file, alone.parameters());
    moxie::train::warm_start(alone.parameters(), s_.model.parameters(), scope);
  }
  using Joint = moxie::train::JointDualStep<Pixels, TrainObjective, moxie::Supervised, Optimizer>;

  Session& s_;
  Pixels dual_;
  Joint step_;
};

template <class Optimizer>
std::unique_ptr<TrainStep> make_with(Session& s, const Optimizer& optimizer, Index rows) {
  if (is_dual(s.options)) return std::make_unique<JointStep<Optimizer>>(s, optimizer, rows);
  return std::make_unique<SingleStep<Optimizer>>(s, optimizer, rows);
}

}  // namespace

std::unique_ptr<TrainStep> make_train_step(Session& s, Index rows) {
  const Options& o = s.options;
  const moxie::Decay decay = moxie::Decay::kernels(o.weight_decay);
  if (o.optimizer == "sgd")
    return make_with(s, moxie::Sgd{.momentum = o.momentum, .decay = decay}, rows);
  return make_with(s, moxie::AdamW{.beta1 = o.beta1, .beta2 = o.beta2, .decay = decay}, rows);
}

}  // namespace vmoe
