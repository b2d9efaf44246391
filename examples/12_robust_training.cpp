// Robust training of mixtures whose experts are whole classifiers: RT-ER inside JTDMoE.
#include <cstdint>
#include <cstdio>
#include <moxie/capacity/dropless.hpp>
#include <moxie/expert/networks.hpp>
#include <moxie/moxie.hpp>
#include <moxie/nn/mlp.hpp>
#include <moxie/optimizer/adam_w.hpp>
#include <moxie/robust/metrics.hpp>
#include <moxie/train/joint_dual.hpp>
#include <moxie/train/rt_er.hpp>
#include <moxie/train/supervised.hpp>
#include <vector>

using B = moxie::CpuBackend<float>;
constexpr moxie::Index inputs = 36, kinds = 3, count = 96;

/// An expert: any Layer from images to scores, a Vit or a ResidualNetwork as well.
struct MakeExpert {
  moxie::Mlp<B> operator()(const moxie::Scope<B>& scope) const {
    return {scope, inputs, 32, kinds};
  }
};
auto mixture(const moxie::Scope<B>& scope) {
  return moxie::MoeLayer{scope, moxie::MoeShape{.width = inputs, .experts = 4},
                         moxie::TopKRouter{.k = 1}, moxie::Dropless{},
                         moxie::Networks{MakeExpert{}, kinds}};
}

/// A few pixels say the class clearly; all others say it faintly, so that an attack can turn them.
struct Data {
  std::vector<float> x = std::vector<float>(count * inputs);
  std::vector<float> labels = std::vector<float>(count * kinds);
  std::vector<std::int32_t> y = std::vector<std::int32_t>(count);
  Data() {
    const moxie::Random random{1, 0, 0};
    for (std::size_t i = 0; i < count; ++i) {
      y[i] = static_cast<std::int32_t>(i % kinds);
      labels[i * kinds + i % kinds] = 1;
      for (std::size_t j = 0; j < inputs; ++j) {
        const double strength = j < kinds ? 0.25 : 0.04;
        const double sign = j % kinds == i % kinds ? 1.0 : -1.0;
        const double noise = 0.1 * (random.uniform(i, j) - 0.5);
        x[i * inputs + j] = static_cast<float>(0.5 + strength * sign + noise);
      }
    }
  }
};

int main() {
  B cpu;
  Data data;
  const moxie::Batch<B> batch{{data.x.data(), count, inputs}, {data.labels.data(), count, kinds}};
  const moxie::Pgd pgd{.threat = {.eps = 0.15}, .step = 0.04, .steps = 7};
  const auto test = [&](const char* name, const auto& model) {
    moxie::RunAttack attack{moxie::LayerTarget{model}, pgd, count};
    std::vector<float> x_adv(data.x.size());
    std::vector<std::int32_t> standing(count);
    const moxie::RobustCount found =
        moxie::evaluate_attack(attack, {.x = batch.x, .y = {data.y.data(), count}},
                               {x_adv.data(), count, inputs}, {standing.data(), count});
    std::printf("%s: SA above 95 %%: %s, RA above 95 %%: %s\n", name,
                found.sa() > 95 ? "yes" : "no", found.ra() > 95 ? "yes" : "no");
  };
  const auto root = moxie::root(cpu);
  moxie::DualModel dual{mixture(root / "Standard"), mixture(root / "Robust"), {.alpha = 0.7}};
  root.parameters->initialize(1);

  moxie::train::Step usual{dual.standard(), moxie::Supervised{}, moxie::AdamW{},
                           root.parameters->range("Standard"), count};
  for (std::uint64_t t = 0; t < 60; ++t) usual(batch, 1e-2, {.seed = 1, .step = t});
  test("standard", dual.standard());

  moxie::train::JointDualStep joint{dual, moxie::RtEr{.attack = {.pgd = pgd}, .beta = 1},
                                    moxie::Supervised{}, moxie::AdamW{}, count};
  for (std::uint64_t t = 0; t < 120; ++t) joint(batch, 1e-2, {.seed = 1, .step = t});
  test("robust", dual.robust());
}
