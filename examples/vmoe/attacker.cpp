#include "attacker.hpp"

#include <algorithm>
#include <concepts>
#include <numeric>

#include "moxie/robust/auto_attack.hpp"
#include "moxie/runtime/unknown_name.hpp"

namespace vmoe {
namespace {

using Target = moxie::LayerTarget<PixelModel>;
constexpr int part_steps = 50;

bool is_pgd(const AttackChoice& c) { return c.name == "pgd" || c.name == "vmoe_pgd"; }
int usual_steps(const std::string& name) {
  if (name == "pgd") return part_steps;
  if (name == "vmoe_pgd") return 40;
  return name == "square" ? 5000 : 100;
}

template <class A>
class Held final : public Attacker {
 public:
  Held(const PixelModel& model, const A& attack, std::string_view name, Index images)
      : model_(model), name_(name), run_(Target(model), attack, images), image_(to_size(images)) {
    std::iota(image_.begin(), image_.end(), 0);
  }
  moxie::RobustCount run(const Batch& batch, moxie::Matrix<Backend> x_adv,
                         moxie::IntVector<Backend> standing) override {
    if constexpr (ensemble) run_.state().stages = {};
    const moxie::RobustCount count = moxie::evaluate_attack(run_, batch, x_adv, standing);
    standing_ = count.robust;
    return count;
  }
  std::vector<Member> members() const override {
    if constexpr (ensemble) return finished();
    return {{name_, standing_}};
  }
  std::vector<Member> finished() const override {
    std::vector<Member> out;
    if constexpr (ensemble)
      for (const auto& stage : run_.state().stages)
        if (!stage.name.empty()) out.push_back({stage.name, stage.standing});
    return out;
  }
  void scores(moxie::ConstMatrix<Backend> x, moxie::Matrix<Backend> scores) override {
    run_.target().scores(x, {image_.data(), x.rows}, scores);
  }
  void visit(moxie::RoutingVisitor<Backend>& visitor) override {
    model_.visit_routing(run_.target().tape(), visitor);
  }

 private:
  static constexpr bool ensemble = std::same_as<A, moxie::AutoAttack>;
  const PixelModel& model_;
  std::string_view name_;
  moxie::RunAttack<Target, A> run_;
  std::vector<std::int32_t> image_;
  Index standing_ = 0;
};

moxie::Apgd apgd(const AttackChoice& c, moxie::AttackLoss loss) {
  return {.threat = c.threat,
          .loss = loss,
          .iterations = c.steps,
          .restarts = c.restarts};
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

std::unique_ptr<Attacker> make_attacker(const PixelModel& model, const AttackChoice& choice,
                                        Index images) {
  check(choice);
  const AttackChoice c = resolved(choice);
  const auto held = [&](const auto& attack) -> std::unique_ptr<Attacker> {
    return std::make_unique<Held<std::remove_cvref_t<decltype(attack)>>>(
        model, attack, choice.name, images);  // a name that outlives this
  };
  const ImageShape& image = model.image();
  using moxie::AttackLoss;
  if (c.name == "pgd") {
    moxie::Pgd pgd = part_attack(c);
    pgd.restarts = c.restarts;
    return held(pgd);
  }
  if (c.name == "vmoe_pgd") {
    moxie::Pgd pgd = moxie::vmoe_pgd(c.threat.eps, c.steps);
    pgd.any_step = false;
    return held(pgd);
  }
  if (c.name == "apgd_ce") return held(apgd(c, AttackLoss::cross_entropy));
  if (c.name == "apgd_dlr") return held(apgd(c, AttackLoss::dlr));
  if (c.name == "apgd_t") return held(apgd(c, AttackLoss::targeted_dlr));
  if (c.name == "fab_t")
    return held(moxie::FabTargeted{.threat = c.threat, .iterations = c.steps});
  if (c.name == "square")
    return held(moxie::Square{.threat = c.threat,
                              .height = image.height,
                              .width = image.width,
                              .channels = image.channels,
                              .queries = c.steps});
  return held(moxie::AutoAttack{.threat = c.threat,
                                .height = image.height,
                                .width = image.width,
                                .channels = image.channels,
                                .iterations = c.steps,
                                .queries = auto_attack_queries(c)});
}

}  // namespace vmoe
