// A small vision transformer with experts in every other block, trained with the library's training step.
#include <cmath>
#include <cstdio>
#include <moxie/moxie.hpp>
#include <moxie/nn/vit.hpp>
#include <moxie/optimizer/adam_w.hpp>
#include <moxie/train/schedule.hpp>
#include <moxie/train/step.hpp>
#include <moxie/train/supervised.hpp>
#include <vector>

using B = moxie::CpuBackend<float>;
using moxie::Index;
constexpr Index side = 16, kinds = 4, count = 64;

/// Images of stripes, and which of four ways they run.
struct Stripes {
  std::vector<float> x = std::vector<float>(count * side * side);
  std::vector<float> labels = std::vector<float>(count * kinds);
  explicit Stripes(std::uint64_t seed) {
    const moxie::Random random{seed, 0, 0};
    for (std::size_t i = 0; i < count; ++i) {
      const double angle = std::acos(-1.0) * static_cast<double>(i % kinds) / kinds;
      const double phase = 6 * random.uniform(i, 1), pitch = 1 + 0.5 * random.uniform(i, 2);
      labels[i * kinds + i % kinds] = 1;
      for (std::size_t p = 0; p < side * side; ++p) {
        const auto row = static_cast<double>(p / side), column = static_cast<double>(p % side);
        const double along = std::cos(angle) * column + std::sin(angle) * row;
        x[i * side * side + p] =
            static_cast<float>(std::sin(pitch * along + phase) + 0.5 * random.normal(i, 3 + p));
      }
    }
  }
  moxie::Batch<B> batch() const {
    return {{x.data(), count, side * side}, {labels.data(), count, kinds}};
  }
};

/// Percent of the images whose largest score is that of their class.
double accuracy(const moxie::Vit<B>& model, const Stripes& data) {
  std::vector<float> scores(count * kinds);
  auto tape = moxie::make_tape(model, count, moxie::Gradients::none);
  model.forward(data.batch().x, {scores.data(), count, kinds}, tape,
                {.mode = moxie::Mode::eval, .gradients = moxie::Gradients::none});
  int right = 0;
  for (std::size_t i = 0; i < count; ++i) {
    std::size_t best = 0;
    for (std::size_t k = 1; k < kinds; ++k)
      if (scores[i * kinds + k] > scores[i * kinds + best]) best = k;
    right += best == i % kinds ? 1 : 0;
  }
  return 100.0 * right / count;
}

int main() {
  B cpu;
  const moxie::VitConfig config{.image_height = side,
                                .image_width = side,
                                .channels = 1,
                                .width = 32,
                                .blocks = 2,
                                .heads = 2,
                                .hidden = 64,
                                .classes = kinds,
                                .moe_blocks = {1},
                                .seed = 1};
  const moxie::Vit<B> model{
      cpu, config, [&](const moxie::Scope<B>& scope, Index) {
        return moxie::MoeLayer{scope,
                               {.width = config.width, .experts = 4, .group = config.tokens()},
                               moxie::WithNoise{moxie::GaussianNoise{}, moxie::TopKRouter{.k = 2}},
                               moxie::CapacityFactor{.factor = 1.5},
                               moxie::FeedForward<moxie::Gelu>{.hidden = config.hidden},
                               moxie::Importance{},
                               moxie::NoisyLoad{}};
      }};
  moxie::train::Step step{model,          moxie::Supervised{},
                          moxie::AdamW{}, model.parameters().range(),
                          count,          {.clip = moxie::ClipByGlobalNorm{.limit = 1}}};
  const moxie::CosineSchedule schedule{.peak = 3e-3, .end = 0, .warmup = 5, .total = 60};
  for (std::uint64_t t = 0; t < schedule.total; ++t)
    step(Stripes(t + 1).batch(), schedule(t), {.seed = 1, .step = t});
  std::printf("%td parameters\n", model.parameters().size());
  std::printf("accuracy on new images above 90 %%: %s\n",
              accuracy(model, Stripes(1000)) > 90 ? "yes" : "no");
}
