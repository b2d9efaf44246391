#include "robust_options.hpp"

#include <algorithm>
#include <charconv>

#include "moxie/runtime/unknown_name.hpp"
#include "router_defaults.hpp"

namespace vmoe {
namespace {

bool read_number(std::string_view text, double& value) {
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc{} && stop == end && moxie::math::is_finite(value);
}

template <class T, std::size_t N>
T named(const char* option, const std::string& name,
        const std::pair<std::string_view, T> (&known)[N]) {
  std::string names;
  for (const auto& [text, value] : known) {
    if (text == name) return value;
    names.append(names.empty() ? "" : ", ").append(text);
  }
  moxie::throw_config("vmoe: ", option, " is '", name, "', expected one of: ", names);
}

/// What an image becomes must not depend on the images beside it, of which an attack takes those that
/// fell out of the batch.
void check_image_router(const Options& o) {
  if (o.router == "softmax_token_choice" || o.router == "sigmoid_token_choice") return;
  if (o.router != "sinkhorn_token_choice")
    moxie::throw_config(
        "vmoe: router is '", o.router,
        "', expected one of: softmax_token_choice, sinkhorn_token_choice, "
        "sigmoid_token_choice beside model 'image_moe': by the others the result for "
        "an image depends on the images beside it, in evaluation, too");
  if (o.plan_at_eval)
    moxie::throw_config(
        "vmoe: plan_at_eval is true, expected false beside model 'image_moe': by a plan "
        "over the batch the result for an image depends on the images beside it");
}

/// Whether there is an expert that comes second, if RT-ER's divergence is to be of that one.
void check_second_expert(const Options& o) {
  if (o.objective != "rt_er" && !is_dual(o)) return;
  if (!(o.beta > 0) || o.dense || o.rt_er_experts != "second") return;
  if (o.experts < 2)
    moxie::throw_config("vmoe: experts is ", o.experts, ", expected at least 2: ", o.objective,
                        " trains the expert that comes second");
  const bool ranks =
      family_of(o) == RouterFamily::token_choice && o.router != "hash" && o.router != "uniform";
  if (!ranks)
    moxie::throw_config("vmoe: router is '", o.router,
                        "', by which no expert of a token comes second, "
                        "expected softmax_, sinkhorn_, sparse_ or sigmoid_token_choice beside "
                        "objective '",
                        o.objective, "'");
}

moxie::TrainingAttack attack_of(const Options& o) {
  return {.pgd = training_pgd(o), .corner_start = o.corner_start};
}

}  // namespace

double fraction_of(std::string_view name, const std::string& text) {
  const std::size_t slash = text.find('/');
  double above = 0;
  double below = 1;
  const bool good = read_number(std::string_view(text).substr(0, slash), above) &&
                    (slash == std::string::npos ||
                     (read_number(std::string_view(text).substr(slash + 1), below) && below > 0));
  const double value = above / below;
  if (!good || !moxie::math::is_finite(value) || value < 0)
    moxie::throw_config("vmoe: ", name, " is '", text,
                        "', expected a number at least 0, or a fraction such as 8/255");
  return value;
}

double pixel_fraction_of(std::string_view name, const std::string& text) {
  const double value = fraction_of(name, text);
  if (value > 1)
    moxie::throw_config(
        "vmoe: ", name, " is '", text,
        "', expected at most 1, for pixels are from 0 to 1 (a fraction such as 8/255)");
  return value;
}

bool is_adversarial(const Options& o) { return o.objective != "supervised"; }
bool is_dual(const Options& o) { return o.objective == "jtdmoe"; }

moxie::Pgd training_pgd(const Options& o) {
  return {.threat = {.eps = pixel_fraction_of("eps", o.eps)},
          .step = pixel_fraction_of("attack_step", o.attack_step),
          .steps = static_cast<int>(o.attack_steps)};
}

moxie::RtEr rt_er_of(const Options& o) {
  using enum moxie::RtEr::Experts;
  using enum moxie::RtEr::Delta;
  constexpr std::pair<std::string_view, moxie::RtEr::Experts> experts[] = {
      {"second", second}, {"all", all}, {"all_mean", all_mean}};
  constexpr std::pair<std::string_view, moxie::RtEr::Delta> deltas[] = {{"own", own},
                                                                        {"shared", shared}};
  return {.attack = attack_of(o),
          .beta = o.beta,
          .experts = named("rt_er_experts", o.rt_er_experts, experts),
          .delta = named("rt_er_delta", o.rt_er_delta, deltas),
          .scope = o.model == "vit" ? moxie::RtEr::Scope::forced_second
                                    : moxie::RtEr::Scope::image_expert,
          .detach_clean = o.detach_clean};
}

TrainObjective objective_of(const Options& o) {
  if (o.objective == "adversarial") return {moxie::Adversarial{.attack = attack_of(o)}};
  if (o.objective == "trades") return {moxie::Trades{.attack = attack_of(o), .beta = o.beta}};
  if (o.objective == "rt_er") return {rt_er_of(o)};
  return {moxie::Supervised{o.loss == "sigmoid" ? moxie::Supervised::Loss::sigmoid
                                                : moxie::Supervised::Loss::softmax}};
}

moxie::DualOptions dual_options_of(const Options& o) {
  constexpr std::pair<std::string_view, moxie::DualSpace> spaces[] = {
      {"logit", moxie::DualSpace::logit}, {"log_probability", moxie::DualSpace::log_probability}};
  return {.alpha = o.alpha, .space = named("dual_space", o.dual_space, spaces)};
}

moxie::train::JointOptions joint_options_of(const Options& o) {
  using enum moxie::train::JointOptions::Upper;
  constexpr std::pair<std::string_view, moxie::train::JointOptions::Upper> uppers[] = {
      {"both", both}, {"standard", standard}};
  return {
      .upper = named("upper_params", o.upper_params, uppers),
      .step = {.clip = o.clip > 0 ? std::optional(moxie::ClipByGlobalNorm{o.clip}) : std::nullopt}};
}

void check_robust(const Options& o) {
  constexpr std::pair<std::string_view, int> objectives[] = {
      {"supervised", 0}, {"adversarial", 1}, {"trades", 2}, {"rt_er", 3}, {"jtdmoe", 4}};
  constexpr std::pair<std::string_view, int> models[] = {{"vit", 0}, {"image_moe", 1}};
  (void)named("objective", o.objective, objectives);
  (void)named("model", o.model, models);
  (void)training_pgd(o);
  (void)rt_er_of(o);
  (void)joint_options_of(o);
  const auto refuse = [](const char* name, const auto& value, const char* expected) {
    moxie::throw_config("vmoe: ", name, " is ", value, ", expected ", expected);
  };
  const moxie::DualOptions dual = dual_options_of(o);
  if (!(dual.alpha >= 0 && dual.alpha <= 1)) refuse("alpha", o.alpha, "0 to 1");
  if (o.attack_steps < 0 || o.attack_steps > 100000)
    refuse("attack_steps", o.attack_steps, "0 to 100000");
  if (!(o.beta >= 0)) refuse("beta", o.beta, ">= 0");
  if (o.robust_images < 0) refuse("robust_images", o.robust_images, ">= 0");
  if (o.robust_steps < 1 || o.robust_steps > 100000)
    refuse("robust_steps", o.robust_steps, "1 to 100000");
  if (o.model == "image_moe") check_image_router(o);
  if (is_dual(o) && o.model != "image_moe")
    refuse("model", "'" + o.model + "'", "image_moe beside objective 'jtdmoe'");
  if (!is_dual(o) && !(o.warm_standard.empty() && o.warm_robust.empty()))
    refuse("objective", "'" + o.objective + "'", "jtdmoe beside warm_standard and warm_robust");
  if (o.robust_images > 0 && !o.dense && o.router == "soft" && o.group_images != 1)
    refuse("robust_images", o.robust_images,
           "0 where soft experts have slots for several images together (group_images)");
  if ((is_adversarial(o) || o.robust_images > 0) && !(training_pgd(o).step > 0))
    refuse("attack_step", "'" + o.attack_step + "'", "more than 0 where images are attacked");
  if (!is_adversarial(o)) return;
  if (o.attack_steps < 1)
    refuse("attack_steps", o.attack_steps, "at least 1 beside an objective that attacks");
  check_second_expert(o);
  if (o.loss != "softmax")
    refuse("loss", "'" + o.loss + "'", "softmax beside an objective that attacks");
  if (o.prc > 0) refuse("prc", o.prc, "0 beside an objective that attacks");
  if (o.mixup > 0) refuse("mixup", o.mixup, "0 beside an objective that attacks");
}

}  // namespace vmoe
