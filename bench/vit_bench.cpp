#include <benchmark/benchmark.h>

#include <chrono>
#include <string>
#include <vector>

#include "moxie/backend/cpu.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "moxie/capacity/factor.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/nn/presets.hpp"
#include "moxie/nn/vit.hpp"
#include "moxie/optimizer/adam_w.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/regularizer/noisy_load.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/train/step.hpp"
#include "moxie/train/supervised.hpp"

// Whole training steps of vision transformers with experts (E = 8, K = 2), and how their time divides over the mixture of
// experts layers, attention and the rest. The parts are timed on their own, at the same shapes, after the whole.

namespace {

using B = moxie::CpuBackend<float>;
using moxie::Index;
using Layer = moxie::AnyLayer<B>;

template <class F>
double seconds(int times, const F& f) {
  f();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < times; ++i) f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / times;
}

Layer make_moe(const moxie::Scope<B>& scope, const moxie::VitConfig& vit, Index images) {
  return moxie::MoeLayer{
      scope,
      moxie::MoeShape{.width = vit.width, .experts = 8, .group = images * vit.tokens()},
      moxie::WithNoise{moxie::GaussianNoise{}, moxie::TopKRouter{.k = 2}},
      moxie::CapacityFactor{.factor = 1.05, .multiple_of = 4},
      moxie::FeedForward<moxie::Gelu>{.hidden = vit.hidden},
      moxie::Importance{},
      moxie::NoisyLoad{}};
}

/// Forward and backward of one layer over random rows.
double layer_seconds(const Layer& layer, Index rows, int times) {
  auto tape = moxie::make_tape(layer, rows);
  const moxie::Random random{1, 0, 0};
  std::vector<float> x(static_cast<std::size_t>(rows * layer.input_width()));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(random.normal(i));
  std::vector<float> y(static_cast<std::size_t>(rows * layer.output_width())), dx(x.size());
  std::uint64_t step = 0;
  return seconds(times, [&] {
    layer.forward({x.data(), rows, layer.input_width()}, {y.data(), rows, layer.output_width()},
                  tape, {.step = step++});
    layer.backward({y.data(), rows, layer.output_width()}, {dx.data(), rows, layer.input_width()},
                   tape);
  });
}

/// range(0): threads.
void train_step(benchmark::State& state, const std::string& preset, Index side, Index images) {
  moxie::ThreadPool pool(static_cast<int>(state.range(0)));
  B cpu(pool);
  moxie::VitConfig vit = moxie::vit_preset(preset);
  vit.image_height = vit.image_width = side;
  vit.classes = 10;
  vit.patch = 4;
  const auto make_feed = [&](const moxie::Scope<B>& scope, Index) {
    return make_moe(scope, vit, images);
  };
  const Layer model = moxie::Vit<B>(cpu, vit, make_feed);
  moxie::train::Step step{model, moxie::Supervised{}, moxie::AdamW{}, model.parameters().range(),
                          images, {.clip = moxie::ClipByGlobalNorm{1}}};
  const moxie::Random random{2, 0, 0};
  std::vector<float> x(static_cast<std::size_t>(images * vit.pixels()));
  std::vector<float> labels(static_cast<std::size_t>(images * vit.classes));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(random.normal(i));
  for (Index i = 0; i < images; ++i) labels[static_cast<std::size_t>(i * vit.classes + i % vit.classes)] = 1;
  const moxie::Batch<B> batch{{x.data(), images, vit.pixels()}, {labels.data(), images, vit.classes}};
  std::uint64_t at = 0;
  const auto one = [&] { step(batch, 1e-3, {.seed = 1, .step = at++}); };
  for (auto _ : state) one();
  state.SetItemsProcessed(state.iterations() * images);

  const int times = 5;
  const double whole = seconds(times, one);
  const Index rows = images * vit.tokens();
  auto moe_scope = moxie::root(cpu);
  const Layer moe = make_moe(moe_scope, vit, images);
  moe_scope.parameters->initialize(1);
  auto attention_scope = moxie::root(cpu);
  const Layer attention = moxie::SelfAttention<B>(
      attention_scope, {.tokens = vit.tokens(), .width = vit.width, .heads = vit.heads});
  attention_scope.parameters->initialize(1);
  const double in_moe =
      static_cast<double>(vit.moe_blocks.size()) * layer_seconds(moe, rows, times);
  const double in_attention =
      static_cast<double>(vit.blocks) * layer_seconds(attention, rows, times);
  state.counters["ms"] = 1e3 * whole;
  state.counters["share_moe"] = in_moe / whole;
  state.counters["share_attention"] = in_attention / whole;
  state.counters["share_rest"] = 1 - (in_moe + in_attention) / whole;
}

void nano(benchmark::State& state) { train_step(state, "nano", 32, 128); }
void ti(benchmark::State& state) { train_step(state, "ti", 32, 32); }

}  // namespace

BENCHMARK(nano)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(ti)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
