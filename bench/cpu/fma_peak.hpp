#pragma once

#include <benchmark/benchmark.h>

#include "moxie/backend/cpu.hpp"
#include "moxie/backend/cpu/simd.hpp"

namespace bench {

using moxie::Index;

/// Independent multiply-adds in registers at a level's full width: nothing a program does with floats is faster.
struct FmaLoop {
  static constexpr int chains =
      12;  // at least latency times units; with two factors they fit into 16 registers
  Index steps;
  float* numbers;  // [2] factor and summand, then room for a vector: the result

  template <class L>
  MOXIE_INLINE void operator()(L) const {
    using V = moxie::detail::Vec<float, L>;
    const V factor = numbers[0] - V{};
    const V summand = numbers[1] - V{};
    moxie::detail::Array<V, chains> sum;
    MOXIE_CPU_UNROLL
    for (int c = 0; c < chains; ++c) sum[c] = static_cast<float>(c) - V{};
    for (Index i = 0; i < steps; ++i) {
      MOXIE_CPU_UNROLL
      for (int c = 0; c < chains; ++c) sum[c] = sum[c] * factor + summand;
    }
    V all{};
    MOXIE_CPU_UNROLL
    for (int c = 0; c < chains; ++c) all += sum[c];
    moxie::detail::store(numbers + 2, all);
  }
};

/// The loop on each thread of a backend.
class FmaPeak {
 public:
  FmaPeak(const moxie::CpuBackend<float>& backend, Index steps)
      : backend_(backend), steps_(steps) {}
  void operator()() const {
    backend_.parallel(backend_.workers(), [&](Index, int) {
      float numbers[2 + 64] = {0.5F, 1.0F};
      float* unknown =
          numbers;  // to the compiler, which would drop a loop whose result nobody reads
      benchmark::DoNotOptimize(unknown);
      backend_.at_level(FmaLoop{steps_, unknown});
      benchmark::ClobberMemory();
    });
  }
  double flops() const {
    const int lanes = backend_.level() == moxie::Level::avx512 ? 16
                      : backend_.level() == moxie::Level::avx2 ? 8
                                                               : 4;
    return 2.0 * FmaLoop::chains * lanes * static_cast<double>(steps_) * backend_.workers();
  }

 private:
  moxie::CpuBackend<float> backend_;
  Index steps_;
};

}  // namespace bench
