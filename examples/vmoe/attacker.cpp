#include "attacker.hpp"

#include <concepts>
#include <numeric>

#include "mirror.hpp"
#include "moxie/robust/auto_attack.hpp"

namespace vmoe {
namespace {

using Target = moxie::LayerTarget<PixelModel>;

template <class A>
class Held final : public Attacker {
 public:
  Held(const PixelModel& model, const A& attack, std::string_view name, Index images)
      : model_(model),
        name_(name),
        run_(Target(model), attack, images),
        image_(model.parameters().backend(), images) {
    std::iota(image_.host.begin(), image_.host.end(), 0);
    image_.send(images);
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
  Mirror<std::int32_t> image_;
  Index standing_ = 0;
};

moxie::Apgd apgd(const AttackChoice& c, moxie::AttackLoss loss) {
  return {.threat = c.threat, .loss = loss, .iterations = c.steps, .restarts = c.restarts};
}

}  // namespace

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
  if (c.name == "fab_t") return held(moxie::FabTargeted{.threat = c.threat, .iterations = c.steps});
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
