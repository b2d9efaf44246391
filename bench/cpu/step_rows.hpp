#pragma once

#include <string>

#include "../vit_step.hpp"
#include "device/allocations.hpp"
#include "layer_rows.hpp"
#include "moxie/backend/cpu/bf16.hpp"

namespace bench {

/// Calls of operator new in steps like those that were made before.
inline void allocations_row(CpuRun& run) {
  for (const int threads : run.options.threads) {
    Workers on(threads);
    LayerWithMemory layer = make_moe_layer(on.backend, usual_shape(run));
    VitStep step(on.pool, "nano", 32, run.size(128, 8));
    const auto count = [](const auto& f) {
      for (int i = 0; i < 2; ++i) f();
      const int before = moxie::test::allocations();
      f();
      return static_cast<double>(moxie::test::allocations() - before);
    };
    Bar bar{.what = "heap allocations in a steady step: forward and backward of a layer",
            .threads = threads,
            .direction = Direction::at_most,
            .limit = 0,
            .ratio = count([&] { layer.run(true); })};
    run.report.add(bar);
    bar.what = "heap allocations in a steady step: training step of nano";
    bar.ratio = count([&] { step(); });
    run.report.add(bar);
  }
}

/// A layer that only evaluates, with weights kept packed as floats and in bf16.
inline void bf16_row(CpuRun& run) {
  const LayerShape s = usual_shape(run);
  for (const int threads : run.options.threads) {
    Workers on(threads);
    B narrow(on.pool, {.copies = moxie::bf16_copies});
    LayerWithMemory wide_layer = make_moe_layer(on.backend, s);
    LayerWithMemory narrow_layer = make_moe_layer(narrow, s);
    for (LayerWithMemory* layer : {&wide_layer, &narrow_layer})
      layer->tape = moxie::OwnedTape<moxie::AnyLayer<B>>(layer->layer, s.tokens, moxie::Gradients::none);
    const std::string name = "bf16/" + axes_of(s) + "/weights:";
    const auto times = run.measure(run.rounds(), {forward_of(name + "float", on, wide_layer, s.flops()),
                                                  forward_of(name + "bf16", on, narrow_layer, s.flops())});
    run.report.add(Bar{.what = "bf16 expert weights against fp32, forward, T 4096",
                       .threads = threads,
                       .limit = 1.5,
                       .ratio = ratio_of(times[0], times[1])});
  }
}
/// Bars of what the library does not have, or another program measures.
inline void scratch_row(CpuRun& run) {
  run.report.add(Bar{.what = "peak scratch of a layer against a documented formula",
                     .limit = 1,
                     .note = "of the products of experts: detail::expert_scratch_bytes, which a test checks; "
                             "of a whole layer there is none, tape_bytes measures it"});
}
inline void torch_row(CpuRun& run) {
  for (const auto& [preset, limit] : {std::pair{"nano", 3.0}, {"ti", 1.5}})
    run.report.add(Bar{.what = std::string("training step of ") + preset + " against PyTorch eager",
                       .limit = limit,
                       .state = BarState::elsewhere,
                       .note = "bench/peers/torch_moe.py"});
}

}  // namespace bench
