#include "attack_choice.hpp"

#include <algorithm>

#include "moxie/core/error.hpp"
#include "moxie/runtime/unknown_name.hpp"

namespace vmoe {
namespace {

constexpr int part_steps = 50;

bool is_pgd(const AttackChoice& c) { return c.name == "pgd" || c.name == "vmoe_pgd"; }
int usual_steps(const std::string& name) {
  if (name == "pgd") return part_steps;
  if (name == "vmoe_pgd") return 40;
  return name == "square" ? 5000 : 100;
}

}  // namespace

const std::vector<std::string>& attack_names() {
  static const std::vector<std::string> names{"pgd",   "apgd_ce", "apgd_dlr",    "apgd_t",
                                              "fab_t", "square",  "auto_attack", "vmoe_pgd"};
  return names;
}

AttackChoice resolved(AttackChoice c) {
  if (c.steps == 0) c.steps = usual_steps(c.name);
  if (c.name == "pgd" && c.step == 0) c.step = c.threat.eps / 4;
  if (c.name == "vmoe_pgd") c.step = c.threat.eps / c.steps;
  return c;
}
int auto_attack_queries(const AttackChoice& c) { return 50 * c.steps; }

moxie::Pgd part_attack(const AttackChoice& c) {
  return {.threat = c.threat,
          .step = c.step > 0 ? c.step : c.threat.eps / 4,
          .steps = is_pgd(c) && c.steps > 0 ? c.steps : part_steps};
}

void check(const AttackChoice& c) {
  const auto& names = attack_names();
  if (std::find(names.begin(), names.end(), c.name) == names.end())
    moxie::throw_unknown_name("vmoe attack", "attack", c.name, names);
  if (c.threat.norm != moxie::Norm::linf && c.name != "pgd")
    moxie::throw_config("vmoe attack: norm is 'l2', but ", c.name,
                        " is for linf alone; expected --attack pgd or --norm linf");
  const bool takes_restarts = c.name == "pgd" || c.name.starts_with("apgd");
  if (c.restarts != 1 && !takes_restarts)
    moxie::throw_config("vmoe attack: restarts is ", c.restarts, ", but ", c.name,
                        " has one start; expected 1, or an attack that begins at random (pgd, "
                        "apgd_ce, apgd_dlr, apgd_t)");
  if (c.step != 0 && c.name != "pgd")
    moxie::throw_config("vmoe attack: step-size is ", c.step, ", but ", c.name,
                        " finds its own; expected --attack pgd or no step-size");
  if (c.steps < 0) moxie::throw_config("vmoe attack: steps is ", c.steps, ", expected at least 0");
}

}  // namespace vmoe
