// How far an attack must go to turn a mixture's answers, and how far none can: radii in L-infinity.
#include <cstdio>
#include <moxie/capacity/dropless.hpp>
#include <moxie/expert/networks.hpp>
#include <moxie/moxie.hpp>
#include <moxie/nn/mlp.hpp>
#include <moxie/optimizer/adam_w.hpp>
#include <moxie/robust/certificate.hpp>
#include <moxie/robust/metrics.hpp>
#include <moxie/robust/pgd.hpp>
#include <moxie/train/step.hpp>
#include <moxie/train/supervised.hpp>
#include <string>
#include <vector>

using B = moxie::CpuBackend<float>;
constexpr moxie::Index inputs = 12, kinds = 3, number = 60, parts = 2;

struct MakeExpert {
  moxie::Mlp<B> operator()(const moxie::Scope<B>& scope) const { return {scope, inputs, 8, kinds}; }
};
struct Kernel {  // a matrix of the model, in double
  std::vector<double> values;
  moxie::MatrixView<const double, moxie::HostSpace> view{};
  Kernel(const moxie::Parameters<B>& p, const std::string& name) {
    for (const moxie::ParameterEntry& e : p.entries())
      if (e.name == name) {
        values.assign(p.values().data + e.offset, p.values().data + e.offset + e.size());
        view = {values.data(), e.rows(), e.cols()};
      }
  }
};

int main() {
  B cpu;
  const moxie::MoeLayer model{cpu,
                              {.width = inputs, .experts = parts, .seed = 1},
                              moxie::TopKRouter{.k = 1, .renormalize = true},  // weight 1
                              moxie::Dropless{},
                              moxie::Networks{MakeExpert{}, kinds}};
  const moxie::Parameters<B>& p = model.parameters();
  std::vector<float> x, labels(number * kinds), found(number * inputs), scores(number * kinds);
  std::vector<std::int32_t> y(number), standing(number);
  for (std::size_t i = 0; i < number * inputs; ++i)  // a class is a bright third of the image
    x.push_back(i / inputs % kinds == i % inputs / 4 ? 0.7F - 0.1F * static_cast<float>(i % 2)
                                                     : 0.3F);
  for (std::size_t i = 0; i < number; ++i) {
    y[i] = static_cast<std::int32_t>(i % kinds);
    labels[i * kinds + i % kinds] = 1;
  }
  const moxie::ConstMatrix<B> images{x.data(), number, inputs};
  moxie::train::Step step{model, moxie::Supervised{}, moxie::AdamW{}, p.range(), number};
  for (std::uint64_t t = 0; t < 100; ++t)
    step({images, {labels.data(), number, kinds}}, 1e-2, {.seed = 1, .step = t});

  const auto attack = [&](double eps) {
    moxie::RunAttack pgd{moxie::LayerTarget{model},
                         moxie::Pgd{.threat = {.eps = eps}, .step = eps / 4, .steps = 20}, number};
    return moxie::evaluate_attack(pgd, {.x = images, .y = {y.data(), number}},
                                  {found.data(), number, inputs}, {standing.data(), number});
  };
  const Kernel router(p, "Router/kernel");
  std::vector<double> bound;  // of the scores of each expert
  for (const std::string e : {"0/", "1/"})
    bound.push_back(moxie::mlp_linf_bound(Kernel(p, e + "Dense_0/kernel").view,
                                          Kernel(p, e + "Dense_1/kernel").view)
                        .value);
  auto tape = model.make_tape(number);
  model.forward(images, {scores.data(), number, kinds}, tape, {.mode = moxie::Mode::eval});
  double one = 1, hard = 0, least = 1;
  for (std::size_t i = 0; i < number; ++i) {
    const std::vector<double> own(&scores[i * kinds], &scores[i * kinds] + kinds);
    const float* logit = tape->routing.logits.row(static_cast<moxie::Index>(i));
    const moxie::Certificate c = moxie::within_route(
        moxie::certify_mixture(own, y[i],
                               {.gate = {&one, 1},
                                .gate_lip = {&hard, 1},
                                .expert_lip = {&bound[logit[1] > logit[0]], 1, 1}}),
        moxie::route_radius(std::vector<double>(logit, logit + parts), router.view, 1));
    least = c.radius < least ? c.radius : least;
  }
  std::printf("certified radius of every image above 0.01: %s\n", least > 0.01 ? "yes" : "no");
  std::printf("PGD inside it turns none: %s\n", attack(least).ra() == 100 ? "yes" : "no");
  std::printf("PGD at 0.25 turns some: %s\n", attack(0.25).ra() < 100 ? "yes" : "no");
}
