#pragma once

#include <string>

#include "../vit_step.hpp"
#include "device/allocations.hpp"
#include "layer_rows.hpp"
#include "moxie/backend/cpu/bf16.hpp"
#include "support/tape_formula.hpp"

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
      layer->tape =
          moxie::OwnedTape<moxie::AnyLayer<B>>(layer->layer, s.tokens, moxie::Gradients::none);
    const std::string name = "bf16/" + axes_of(s) + "/weights:";
    const auto times =
        run.measure(run.rounds(), {forward_of(name + "float", on, wide_layer, s.flops()),
                                   forward_of(name + "bf16", on, narrow_layer, s.flops())});
    run.report.add(Bar{.what = "bf16 expert weights against fp32, forward, T 4096",
                       .threads = threads,
                       .limit = 1.5,
                       .ratio = ratio_of(times[0], times[1])});
  }
}
/// Bytes of a layer's tape, beside what docs/performance.md says it takes.
inline void scratch_row(CpuRun& run) {
  const LayerShape s = usual_shape(run);
  for (const int threads : run.options.threads) {
    Workers on(threads);
    const LayerWithMemory layer = make_moe_layer(on.backend, s);
    for (const auto gradients : {moxie::Gradients::all, moxie::Gradients::none}) {
      const moxie::test::TapeFormula formula({.tokens = s.tokens,
                                              .experts = s.experts,
                                              .choices = s.choices,
                                              .width = s.width,
                                              .hidden = s.hidden,
                                              .workers = threads},
                                             gradients);
      const std::size_t bytes = moxie::tape_bytes(layer.layer, s.tokens, gradients);
      run.report.add(
          Bar{.what = std::string("peak scratch of a layer against the documented formula, ") +
                      (gradients == moxie::Gradients::all ? "all gradients" : "no gradients"),
              .threads = threads,
              .direction = Direction::at_most,
              .limit = 1,
              .ratio = static_cast<double>(bytes) / static_cast<double>(formula.total()),
              .note = std::to_string(bytes).append(
                  " bytes, the whole tape; formula: docs/performance.md")});
    }
  }
}
/// Bars that another program measures.
inline void torch_row(CpuRun& run) {
  for (const auto& [preset, limit] : {std::pair{"nano", 3.0}, {"ti", 1.5}})
    run.report.add(Bar{.what = std::string("training step of ") + preset + " against PyTorch eager",
                       .limit = limit,
                       .state = BarState::elsewhere,
                       .note = "bench/peers/torch_moe.py"});
}

}  // namespace bench
