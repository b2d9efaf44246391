#include "router_defaults.hpp"

#include <cmath>
#include <initializer_list>

#include "moxie/core/error.hpp"
#include "robust_options.hpp"

namespace vmoe {
namespace {

/// Those of robust training.
void refuse_idle_robust_flags(const Options& o, const OptionNames& flags) {
  const auto need = [&](bool used, std::initializer_list<const char*> names) {
    for (const char* name : names)
      if (!used && flags.contains(name))
        moxie::throw_config("vmoe: ", flag_of(name), " has no effect beside --objective ",
                            o.objective);
  };
  const bool rt_er = o.objective == "rt_er" || is_dual(o);
  need(is_adversarial(o), {"attack_steps", "corner_start"});
  need(rt_er || o.objective == "trades", {"beta"});
  need(rt_er, {"rt_er_experts", "rt_er_delta", "detach_clean"});
  need(is_dual(o), {"alpha", "dual_space", "upper_params"});
}

}  // namespace

RouterFamily family_of(const Options& o) {
  if (o.router == "soft") return RouterFamily::soft;
  return o.router.ends_with("expert_choice") ? RouterFamily::expert_choice
                                             : RouterFamily::token_choice;
}

double active_experts(const Options& o) {
  return family_of(o) == RouterFamily::token_choice ? static_cast<double>(o.k) : o.capacity_factor;
}

Index twin_hidden(const Options& o, Index expert_hidden) {
  const double products = o.expert == "mlp" ? 2 : 3;  // a gated expert has one more of the same size
  const Index beside = o.shared_hidden + (o.residual ? expert_hidden : 0);
  return std::lround(active_experts(o) * static_cast<double>(expert_hidden) * products / 2) + beside;
}

void take_router_defaults(Options& o, const OptionNames& given) {
  const auto set = [&given](const char* name, auto& member, auto value) {
    if (!given.contains(name)) member = value;
  };
  if (o.model == "image_moe") {
    set("experts", o.experts, Index{4});
    set("k", o.k, Index{1});
    set("group_images", o.group_images, Index{1});
    set("capacity", o.capacity, std::string("dropless"));
    // That over a batch would make an image's result depend on its neighbours
    if (o.router == "sinkhorn_token_choice") set("plan_at_eval", o.plan_at_eval, false);
  }
  const RouterFamily family = family_of(o);
  const bool softmax_choice = o.router == "softmax_token_choice";
  if (!softmax_choice && !o.router.starts_with("sinkhorn_") && o.router != "softmax_expert_choice")
    set("noise", o.noise, 0.0);
  if (!softmax_choice) {
    set("importance", o.importance, 0.0);
    set("load", o.load, 0.0);
  }
  if (o.prc > 0 && o.prc_form == "prc") {  // whose paper has neither
    set("importance", o.importance, 0.0);
    set("load", o.load, 0.0);
  }
  if (o.noise == 0) set("load", o.load, 0.0);  // it is a function of the noise
  if (family != RouterFamily::token_choice) {
    set("group_images", o.group_images, Index{1});
    set("capacity_factor", o.capacity_factor, static_cast<double>(o.k));
  }
  if (family == RouterFamily::soft) {
    set("capacity", o.capacity, std::string("round"));
    set("capacity_multiple", o.capacity_multiple, Index{1});
  }
}

void refuse_idle_flags(const Options& o, const OptionNames& flags) {
  const auto refuse = [&](bool idle, const char* name, const auto& value, const char* why) {
    if (idle && flags.contains(name))
      moxie::throw_config("vmoe: ", flag_of(name), " is ", value, ", but ", why,
                          "; expected one of the two flags");
  };
  refuse(flags.contains("slots") && o.slots != 0, "capacity_factor", o.capacity_factor,
         "--slots gives the slots of an expert");
  refuse(o.capacity == "dropless", "capacity_factor", o.capacity_factor,
         "--capacity dropless has no factor");
  const bool sized = flags.contains("capacity_factor") || (flags.contains("slots") && o.slots != 0);
  refuse(family_of(o) == RouterFamily::expert_choice && sized, "k", o.k,
         "where experts choose, k is the default of --capacity-factor only, and the slots are given");
  refuse_idle_robust_flags(o, flags);
  for (const std::string& name : flags) {
    if (!name.starts_with("prc_")) continue;
    const bool of_prc = name == "prc_diagonal" || name.starts_with("prc_lambda");
    if (o.prc == 0 || (of_prc && o.prc_form != "prc"))
      moxie::throw_config("vmoe: ", flag_of(name), " has no effect ",
                          o.prc == 0 ? "without --prc WEIGHT" : "beside --prc-form " + o.prc_form);
  }
}

}  // namespace vmoe
