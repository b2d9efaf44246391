#pragma once

#include <string>

#include "../vit_step.hpp"
#include "device/allocations.hpp"
#include "layer_rows.hpp"

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

/// Bars of what the library does not have, or another program measures.
inline void bf16_row(CpuRun& run) {
  run.report.add(Bar{.what = "bf16 expert weights against fp32, forward, T 4096",
                     .limit = 1.5,
                     .note = "expert weights have no bf16 storage"});
}
inline void scratch_row(CpuRun& run) {
  run.report.add(Bar{.what = "peak scratch of a layer against a documented formula",
                     .limit = 1,
                     .note = "there is no documented formula; tape_bytes measures it"});
}
inline void torch_row(CpuRun& run) {
  for (const auto& [preset, limit] : {std::pair{"nano", 3.0}, {"ti", 1.5}})
    run.report.add(Bar{.what = std::string("training step of ") + preset + " against PyTorch eager",
                       .limit = limit,
                       .state = BarState::elsewhere,
                       .note = "bench/peers/torch_moe.py"});
}

}  // namespace bench
