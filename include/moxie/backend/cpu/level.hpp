#pragma once

#include "moxie/core/error.hpp"
#include "moxie/core/view.hpp"

#if !defined(__GNUC__)
#error "moxie: the CPU backend is written with GNU vector extensions: use GCC or Clang"
#endif

// nvcc hands GCC's pragmas on to GCC, but first warns that it does not know them. Without them its copy of a
// kernel would be the slow one, and the linker might keep that for the whole program.
#if defined(__CUDACC__)
#pragma nv_diag_suppress 1675
#endif
#if defined(__clang__)
#define MOXIE_CPU_UNROLL _Pragma("unroll")
#define MOXIE_INDEPENDENT  // Clang's checks for overlap are cheap, and its promise warns where it cannot vectorise
#else
#define MOXIE_CPU_UNROLL _Pragma("GCC unroll 16")
#define MOXIE_INDEPENDENT _Pragma("GCC ivdep")
#endif

#if defined(__x86_64__)
#define MOXIE_TARGET_AVX2 __attribute__((target("avx2,fma,f16c,bmi2"), flatten, noinline))
#define MOXIE_TARGET_AVX512                                                                \
  __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c,bmi2"), flatten, \
                 noinline))
#endif
#define MOXIE_TARGET_BASELINE __attribute__((flatten, noinline))

namespace moxie {

/// Instruction sets that kernels are compiled for; one program holds them all and picks when it runs.
/// `baseline` is what the compiler was told to use (SSE2 on x86-64, NEON on AArch64).
enum class Level { baseline, avx2, avx512 };

constexpr const char* to_string(Level level) {
  return level == Level::avx512 ? "avx512" : level == Level::avx2 ? "avx2" : "baseline";
}

/// The widest level of this machine.
inline Level machine_level() noexcept {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")) {
    return Level::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2")) {
    return Level::avx2;
  }
#endif
  return Level::baseline;
}

namespace detail {

/// A level inside a kernel: bytes of a vector, the widest tile in vectors, and the rows of a tile by its
/// width, so that sums, factors and one broadcast stay in registers.
struct Baseline {
  static constexpr int bytes = 16, vectors = 2;
  static constexpr int tile_rows(int /*vectors*/) { return 4; }
};
struct Avx2 {
  static constexpr int bytes = 32, vectors = 2;
  static constexpr int tile_rows(int n) { return n == 1 ? 8 : 6; }
};
struct Avx512 {
  static constexpr int bytes = 64, vectors = 4;
  static constexpr int tile_rows(int n) { return n == 4 ? 6 : 8; }
};

/// Stands for a level in code that is compiled once, and picks the level where it enters a kernel.
struct AnyLevel {
  Level level;
};

/// A functor of one or two lines per element says `static constexpr bool elementwise = true` and gets loops of
/// constant length, which GCC vectorises already at -O2. For anything longer (a row, a token) they would only
/// double the code of each level.
template <class F>
concept Elementwise = requires {
  requires F::elementwise;
};

/// A functor in which nothing vectorises (it follows indices, branches, draws), or that only moves memory, says
/// `static constexpr bool one_level = true` and is compiled once, for the baseline, not for each level: a third of the time
/// to compile.
template <class F>
concept OneLevel = requires {
  requires F::one_level;
};

inline constexpr Index loop_strip = 64;  // a constant trip count, which GCC vectorises at -O2

/// A loop over a functor whose type is forgotten: f(i) for i in [first, last), and f(i, j) for `rows` rows from `row`
/// and j in [first, last). Indices are independent of each other by the contract of `for_each`.
using RangeLoop = void (*)(const void* f, Index first, Index last);
using BlockLoop = void (*)(const void* f, Index row, Index rows, Index first, Index last);

// Target attributes cannot depend on template arguments, so these trampolines are the only functions that
// carry them; everything a kernel calls is inlined into one. The loops are written out in each because
// Clang's flatten reaches only the calls it sees in the body.
//
//   enter(L{}, f)       f(L{})
//   range_<level><F>    a RangeLoop
//   block_<level><F>    a BlockLoop
#define MOXIE_TRAMPOLINES(ATTRIBUTES, LEVEL, RANGE, BLOCK)                               \
  template <class F>                                                                     \
  ATTRIBUTES void enter(LEVEL, const F& f) {                                             \
    f(LEVEL{});                                                                          \
  }                                                                                      \
  template <class F>                                                                     \
  ATTRIBUTES void RANGE(const void* f, Index first, Index last) {                        \
    const F g = *static_cast<const F*>(f);                                               \
    Index i = first;                                                                     \
    if constexpr (Elementwise<F>) {                                                      \
      for (; i + loop_strip <= last; i += loop_strip) {                                  \
        MOXIE_INDEPENDENT                                                                \
        for (Index k = 0; k < loop_strip; ++k) g(i + k);                                 \
      }                                                                                  \
    }                                                                                    \
    for (; i < last; ++i) g(i);                                                          \
  }                                                                                      \
  template <class F>                                                                     \
  ATTRIBUTES void BLOCK(const void* f, Index row, Index rows, Index first, Index last) { \
    const F g = *static_cast<const F*>(f);                                               \
    for (Index i = row; i < row + rows; ++i) {                                           \
      Index j = first;                                                                   \
      if constexpr (Elementwise<F>) {                                                    \
        for (; j + loop_strip <= last; j += loop_strip) {                                \
          MOXIE_INDEPENDENT                                                              \
          for (Index k = 0; k < loop_strip; ++k) g(i, j + k);                            \
        }                                                                                \
      }                                                                                  \
      for (; j < last; ++j) g(i, j);                                                     \
    }                                                                                    \
  }

MOXIE_TRAMPOLINES(MOXIE_TARGET_BASELINE, Baseline, range_baseline, block_baseline)
#if defined(__x86_64__)
MOXIE_TRAMPOLINES(MOXIE_TARGET_AVX2, Avx2, range_avx2, block_avx2)
MOXIE_TRAMPOLINES(MOXIE_TARGET_AVX512, Avx512, range_avx512, block_avx512)
#endif
#undef MOXIE_TRAMPOLINES

/// Runs f, a struct with `template <class L> MOXIE_INLINE void operator()(L) const`, compiled for `level`.
template <class F>
void at_level(Level level, const F& f) {
  switch (level) {
#if defined(__x86_64__)
    case Level::avx512:
      return enter(Avx512{}, f);
    case Level::avx2:
      return enter(Avx2{}, f);
#endif
    default:
      return enter(Baseline{}, f);
  }
}
/// The loops over F for `level`.
template <class F>
RangeLoop range_loop(Level level) {
  if constexpr (!OneLevel<F>) {
#if defined(__x86_64__)
    if (level == Level::avx512) return range_avx512<F>;
    if (level == Level::avx2) return range_avx2<F>;
#endif
  }
  return range_baseline<F>;
}
template <class F>
BlockLoop block_loop(Level level) {
  if constexpr (!OneLevel<F>) {
#if defined(__x86_64__)
    if (level == Level::avx512) return block_avx512<F>;
    if (level == Level::avx2) return block_avx2<F>;
#endif
  }
  return block_baseline<F>;
}

}  // namespace detail
}  // namespace moxie
