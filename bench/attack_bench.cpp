#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "device/allocations.hpp"
#include "moxie/ops/cross_entropy.hpp"
#include "moxie/robust/pgd.hpp"
#include "presets.hpp"
#include "timing.hpp"
#include "vit_step.hpp"

// What an adversarial training step costs beside its passes: PGD of ten steps and a pass with all gradients on what it found,
// against eleven plain passes that give the gradient of the images alone, of the same vision transformer with experts (E = 8,
// K = 2, dropless, groups of one image). Neither has an optimizer's step. The pass with all gradients computes those of the weights, too,
// and the plain ones do not, so the ratio is above one even if an attack costs nothing beside its passes.
//
// A row's time is the median of the adversarial step; ratios are of medians, taken in turn.

namespace {

using bench::B;
using bench::Layer;
using moxie::Index;

/// A model, images, and everything that the two take.
class Adversarial {
 public:
  static constexpr int steps = 10;

  Adversarial(moxie::Executor& executor, const std::string& preset, Index side, Index images)
      : cpu_(executor),
        vit_(bench::square_vit(preset, side)),
        images_(images),
        model_(moxie::Vit<B>(cpu_, vit_,
                             [this](const moxie::Scope<B>& scope, Index) {
                               return bench::make_moe(scope, vit_, 1);
                             })),
        attack_(moxie::LayerTarget<Layer>(model_), moxie::Pgd{.steps = steps}, images),
        all_(moxie::make_tape(model_, images)),
        inputs_(moxie::make_tape(model_, images, moxie::Gradients::input)),
        x_(static_cast<std::size_t>(images * vit_.pixels())),
        x_adv_(x_.size()),
        dx_(x_.size()),
        labels_(static_cast<std::size_t>(images * vit_.classes)),
        scores_(labels_.size()),
        d_scores_(labels_.size()),
        y_(static_cast<std::size_t>(images)) {
    const moxie::Random random{2, 0, 0};
    for (std::size_t i = 0; i < x_.size(); ++i) x_[i] = static_cast<float>(random.uniform(i));
    for (Index i = 0; i < images; ++i) {
      y_[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i % vit_.classes);
      labels_[static_cast<std::size_t>(i * vit_.classes + i % vit_.classes)] = 1;
    }
  }
  Adversarial(const Adversarial&) = delete;
  Adversarial& operator=(const Adversarial&) = delete;

  void attack() {
    attack_.attack().perturb(attack_.target(),
                             {.x = pixels(x_), .y = {y_.data(), images_}, .seed = 1},
                             attack_.state(), {x_adv_.data(), images_, vit_.pixels()});
  }
  void step() {
    attack();
    pass(x_adv_, *all_, {.mode = moxie::Mode::train, .seed = 1, .step = at_++}, {});
  }
  /// Gradient of the images alone.
  void plain_passes(int count) {
    for (int i = 0; i < count; ++i)
      pass(x_, *inputs_, {.mode = moxie::Mode::eval, .gradients = moxie::Gradients::input},
           {dx_.data(), images_, vit_.pixels()});
  }

 private:
  moxie::ConstMatrix<B> pixels(const std::vector<float>& of) const {
    return {of.data(), images_, vit_.pixels()};
  }
  void pass(const std::vector<float>& x, Layer::Tape& tape, const moxie::Pass<B>& pass,
            moxie::Matrix<B> dx) {
    const moxie::Matrix<B> scores{scores_.data(), images_, vit_.classes};
    const moxie::Matrix<B> d_scores{d_scores_.data(), images_, vit_.classes};
    model_.forward(pixels(x), scores, tape, pass);
    moxie::softmax_cross_entropy(cpu_, moxie::ConstMatrix<B>(scores),
                                 {labels_.data(), images_, vit_.classes}, moxie::Vector<B>{},
                                 d_scores);
    model_.backward(moxie::ConstMatrix<B>(d_scores), dx, tape);
  }

  B cpu_;
  moxie::VitConfig vit_;
  Index images_;
  Layer model_;
  moxie::RunAttack<moxie::LayerTarget<Layer>, moxie::Pgd> attack_;
  moxie::OwnedTape<Layer> all_, inputs_;
  std::vector<float> x_, x_adv_, dx_, labels_, scores_, d_scores_;
  std::vector<std::int32_t> y_;
  std::uint64_t at_ = 0;
};

/// range(0): threads.
void adversarial_step(benchmark::State& state, const std::string& preset, Index side,
                      Index images) {
  moxie::ThreadPool pool(static_cast<int>(state.range(0)));
  Adversarial a(pool, preset, side, images);
  const bench::Rounds rounds{.least = 5, .budget = 2};
  for (auto _ : state) {
    const auto [of_step, of_attack, of_passes] = bench::medians_in_turn(
        rounds, [&] { a.step(); }, [&] { a.attack(); },
        [&] { a.plain_passes(Adversarial::steps + 1); });
    state.SetIterationTime(of_step);
    const double one = of_passes / (Adversarial::steps + 1);
    state.counters["step_of_11_passes"] = of_step / of_passes;
    state.counters["attack_of_10_passes"] = of_attack / (Adversarial::steps * one);
  }
  const int before = moxie::test::allocations();
  a.step();
  state.counters["allocations"] = moxie::test::allocations() - before;
  state.counters["images_per_second"] = benchmark::Counter(
      static_cast<double>(images), benchmark::Counter::kIsIterationInvariantRate);
}

void nano(benchmark::State& state) { adversarial_step(state, "nano", 32, 64); }
void ti(benchmark::State& state) { adversarial_step(state, "ti", 32, 16); }

}  // namespace

int main(int argc, char** argv) {
  bench::register_presets(nano, ti);
  return bench::run_registered(argc, argv, bench::command_of(argc, argv),
                               "fixed: images 2, starts of attacks 1, parameters 0");
}
