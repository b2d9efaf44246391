#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "presets.hpp"
#include "timing.hpp"
#include "vit_step.hpp"

// Whole training steps of vision transformers with experts (E = 8, K = 2, dropless), and the share of a step's time that its mixture of
// experts layers and its attention take. A layer of each kind is timed at the same shapes, forward and backward, in turn with
// whole steps; its median times the number of such layers, over the median of the steps, is the share. The rest (embedding,
// dense blocks, norms, head, optimizer) is not timed.
//
// A row's time is that median of whole steps: one iteration of Google Benchmark is one measurement of at least five rounds.

namespace {

using bench::B;
using bench::Layer;
using moxie::Index;

/// Forward and backward of one layer over random rows.
class LayerPass {
 public:
  LayerPass(const Layer& layer, Index rows)
      : layer_(layer),
        tape_(moxie::make_tape(layer, rows)),
        rows_(rows),
        x_(static_cast<std::size_t>(rows * layer.input_width())),
        y_(static_cast<std::size_t>(rows * layer.output_width())),
        dx_(x_.size()) {
    const moxie::Random random{1, 0, 0};
    for (std::size_t i = 0; i < x_.size(); ++i) x_[i] = static_cast<float>(random.normal(i));
  }
  void operator()() {
    const Index in = layer_.input_width();
    const Index out = layer_.output_width();
    layer_.forward({x_.data(), rows_, in}, {y_.data(), rows_, out}, tape_, {.step = step_++});
    layer_.backward({y_.data(), rows_, out}, {dx_.data(), rows_, in}, tape_);
  }

 private:
  const Layer& layer_;
  moxie::OwnedTape<Layer> tape_;
  Index rows_;
  std::vector<float> x_, y_, dx_;
  std::uint64_t step_ = 0;
};

/// range(0): threads.
void train_step(benchmark::State& state, const std::string& preset, Index side, Index images) {
  moxie::ThreadPool pool(static_cast<int>(state.range(0)));
  bench::VitStep step(pool, preset, side, images);
  B& cpu = step.cpu;
  const moxie::VitConfig& vit = step.vit;

  const Index rows = images * vit.tokens();
  auto moe_scope = moxie::root(cpu);
  const Layer moe = bench::make_moe(moe_scope, vit, images);
  moe_scope.parameters->initialize(1);
  auto attention_scope = moxie::root(cpu);
  const Layer attention = moxie::SelfAttention<B>(
      attention_scope, {.tokens = vit.tokens(), .width = vit.width, .heads = vit.heads});
  attention_scope.parameters->initialize(1);
  LayerPass moe_pass(moe, rows), attention_pass(attention, rows);

  const bench::Rounds rounds{.least = 5, .budget = 2};
  for (auto _ : state) {
    const auto [of_step, of_moe, of_attention] = bench::medians_in_turn(
        rounds, [&] { step(); }, [&] { moe_pass(); }, [&] { attention_pass(); });
    state.SetIterationTime(of_step);
    state.counters["share_moe"] = static_cast<double>(vit.moe_blocks.size()) * of_moe / of_step;
    state.counters["share_attention"] = static_cast<double>(vit.blocks) * of_attention / of_step;
  }
  state.counters["images_per_second"] = benchmark::Counter(
      static_cast<double>(images), benchmark::Counter::kIsIterationInvariantRate);
}

void nano(benchmark::State& state) { train_step(state, "nano", 32, 128); }
void ti(benchmark::State& state) { train_step(state, "ti", 32, 32); }

}  // namespace

int main(int argc, char** argv) {
  const std::string command = bench::command_of(argc, argv);
  bench::register_presets(nano, ti);
  std::string repetitions = "--benchmark_repetitions=5";  // unless asked for otherwise
  std::vector<char*> arguments(argv, argv + argc);
  arguments.insert(arguments.begin() + 1, repetitions.data());
  return bench::run_registered(static_cast<int>(arguments.size()), arguments.data(), command,
                               "fixed: parameters and inputs of layers 1, images 2");
}
