#include "idle_flags.hpp"

#include <algorithm>
#include <initializer_list>

#include "moxie/core/error.hpp"
#include "robust_options.hpp"
#include "router_defaults.hpp"

namespace vmoe {
namespace {

using Names = std::initializer_list<const char*>;

bool one_of(std::string_view value, std::initializer_list<std::string_view> values) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

/// The flags that were typed. Which of them are idle is asked with values that there are: a name
/// that there is not has an error of its own, later.
class Typed {
 public:
  explicit Typed(const OptionNames& flags) : flags_(flags) {}

  /// Refuses each of `names` if they are idle. `why`: "beside --router soft", "without --prc".
  void refuse(bool idle, const std::string& why, Names names) const {
    if (!idle) return;
    for (const char* name : names)
      if (flags_.contains(name))
        moxie::throw_config("vmoe: ", flag_of(name), " has no effect ", why);
  }
  /// The same of a flag that says what another does.
  void refuse_second(bool idle, const char* name, const auto& value, const char* why) const {
    if (idle && flags_.contains(name))
      moxie::throw_config("vmoe: ", flag_of(name), " is ", value, ", but ", why,
                          "; expected one of the two flags");
  }
  bool contains(const char* name) const { return flags_.contains(name); }

 private:
  const OptionNames& flags_;
};

std::string beside(const char* flag, const auto& value) {
  return moxie::detail::message("beside ", flag, " ", value);
}

void refuse_of_model(const Options& o, const Typed& typed) {
  const bool vit = o.model == "vit";
  const bool images = o.model == "image_moe";
  const Names resnet = {"resnet_widths", "resnet_blocks", "resnet_stem_stride", "resnet_norm"};
  typed.refuse(vit, beside("--model", o.model), {"image_expert"});
  typed.refuse(vit, beside("--model", o.model), resnet);
  typed.refuse(images && o.image_expert == "vit", beside("--image-expert", o.image_expert), resnet);
  typed.refuse(images && o.image_expert == "resnet", beside("--image-expert", o.image_expert),
               {"preset", "patch", "width", "blocks", "heads", "hidden", "pooling", "positions"});
  // A mixture of whole networks, which drops nothing and has no groups.
  typed.refuse(images, beside("--model", o.model),
               {"moe", "expert", "same_experts", "capacity", "capacity_factor", "slots",
                "eval_capacity_factor", "capacity_multiple", "priority", "eval_priority",
                "overflow", "group_images"});
}

void refuse_of_router(const Options& o, const Typed& typed) {
  const std::string why = beside("--router", o.router);
  const bool sinkhorn = one_of(o.router, {"sinkhorn_token_choice", "sinkhorn_expert_choice"});
  const bool sparse = one_of(o.router, {"sparse_token_choice", "sparse_expert_choice"});
  const bool softmax = one_of(o.router, {"softmax_token_choice", "softmax_expert_choice"});
  const bool sigmoid = o.router == "sigmoid_token_choice";
  const bool other = one_of(o.router, {"soft", "hash", "uniform"});
  if (!sinkhorn && !sparse && !softmax && !sigmoid && !other) return;
  typed.refuse(!sinkhorn, why, {"epsilon", "plan_at_eval"});
  typed.refuse(!sinkhorn && !sparse, why, {"iterations"});
  typed.refuse(!sinkhorn && !softmax, why, {"combine"});
  typed.refuse(o.router != "sparse_expert_choice", why, {"fill_zero"});
  typed.refuse(!sigmoid, why, {"expert_groups", "top_groups"});
  typed.refuse(sigmoid, why + ", whose weights sum to 1", {"renormalize"});
  typed.refuse(o.noise == 0, "beside --noise 0", {"noise_kind"});
}

void refuse_of_slots(const Options& o, const Typed& typed) {
  const bool counted = o.slots != 0;
  const bool dropless = o.capacity == "dropless";
  const RouterFamily family = family_of(o);
  typed.refuse_second(typed.contains("slots") && counted, "capacity_factor", o.capacity_factor,
                      "--slots gives the slots of an expert");
  typed.refuse_second(dropless, "capacity_factor", o.capacity_factor,
                      "--capacity dropless has no factor");
  const bool sized = typed.contains("capacity_factor") || (typed.contains("slots") && counted);
  typed.refuse_second(
      family == RouterFamily::expert_choice && sized, "k", o.k,
      "where experts choose, k is the default of --capacity-factor only, and the slots are given");
  typed.refuse(counted && o.eval_capacity_factor == 0,
               beside("--slots", o.slots) + " without --eval-capacity-factor",
               {"capacity", "capacity_multiple"});
  typed.refuse(dropless && !counted, beside("--capacity", o.capacity),
               {"priority", "eval_priority", "overflow"});
  const bool rounds_itself =
      one_of(o.capacity, {"vmoe", "deepspeed", "megatron", "megablocks", "tutel"});
  typed.refuse(dropless || rounds_itself, beside("--capacity", o.capacity), {"capacity_multiple"});
  typed.refuse(family == RouterFamily::token_choice && o.eval_capacity_factor == 0,
               "without --eval-capacity-factor: nothing is dropped then in evaluation",
               {"eval_priority"});
}

void refuse_of_consistency(const Options& o, const Typed& typed) {
  typed.refuse(o.prc == 0, "without --prc WEIGHT",
               {"prc_form", "prc_diagonal", "prc_lambda_d", "prc_lambda_o", "prc_layers",
                "prc_class_pair", "prc_validity", "prc_views", "prc_jitter", "prc_decay"});
  typed.refuse(o.prc_form != "prc", beside("--prc-form", o.prc_form),
               {"prc_diagonal", "prc_lambda_d", "prc_lambda_o"});
  typed.refuse(o.prc > 0 && one_of(o.prc_views, {"crop", "paper"}),
               beside("--prc-views", o.prc_views), {"crop_padding"});
}

void refuse_of_robustness(const Options& o, const Typed& typed) {
  const std::string why = beside("--objective", o.objective);
  const bool rt_er = o.objective == "rt_er" || is_dual(o);
  typed.refuse(!is_adversarial(o), why, {"attack_steps", "corner_start"});
  typed.refuse(!is_adversarial(o) && o.robust_images == 0, why + " without --robust-images N",
               {"eps", "attack_step"});
  typed.refuse(o.robust_images == 0, "without --robust-images N", {"robust_steps"});
  typed.refuse(!rt_er && o.objective != "trades", why, {"beta"});
  typed.refuse(!rt_er, why, {"rt_er_experts", "rt_er_delta", "detach_clean"});
  typed.refuse(!is_dual(o), why, {"alpha", "dual_space", "upper_params"});
}

void refuse_of_training(const Options& o, const Typed& typed) {
  typed.refuse(o.optimizer == "adamw", beside("--optimizer", o.optimizer), {"momentum"});
  typed.refuse(o.optimizer == "sgd", beside("--optimizer", o.optimizer), {"beta1", "beta2"});
  const std::string why = beside("--schedule", o.schedule);
  typed.refuse(one_of(o.schedule, {"constant", "rsqrt"}), why, {"end_learning_rate"});
  typed.refuse(one_of(o.schedule, {"constant", "linear", "cosine", "cyclic"}), why,
               {"cooldown_epochs", "timescale"});
  typed.refuse(one_of(o.schedule, {"constant", "linear", "cosine", "rsqrt"}), why, {"half_cycle"});
  typed.refuse(o.schedule == "cyclic", why, {"warmup_epochs"});
}

}  // namespace

void refuse_idle_flags(const Options& o, const OptionNames& flags) {
  const Typed typed(flags);
  refuse_of_model(o, typed);
  refuse_of_router(o, typed);
  refuse_of_slots(o, typed);
  refuse_of_robustness(o, typed);
  refuse_of_consistency(o, typed);
  refuse_of_training(o, typed);
}

}  // namespace vmoe
