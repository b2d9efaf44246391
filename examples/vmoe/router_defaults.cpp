#include "router_defaults.hpp"

#include <cmath>

namespace vmoe {

RouterFamily family_of(const Options& o) {
  if (o.router == "soft") return RouterFamily::soft;
  return o.router.ends_with("expert_choice") ? RouterFamily::expert_choice
                                             : RouterFamily::token_choice;
}

double active_experts(const Options& o) {
  return family_of(o) == RouterFamily::token_choice ? static_cast<double>(o.k) : o.capacity_factor;
}

Index twin_hidden(const Options& o, Index expert_hidden) {
  const double products =
      o.expert == "mlp" ? 2 : 3;  // a gated expert has one more of the same size
  const Index beside = o.shared_hidden + (o.residual ? expert_hidden : 0);
  return std::lround(active_experts(o) * static_cast<double>(expert_hidden) * products / 2) +
         beside;
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

}  // namespace vmoe
