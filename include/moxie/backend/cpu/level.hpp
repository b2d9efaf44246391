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
#define MOXIE_UNROLL _Pragma("unroll")
#define MOXIE_INDEPENDENT  // Clang's checks for overlap are cheap, and its promise warns where it cannot vectorise
#else
#define MOXIE_UNROLL _Pragma("GCC unroll 16")
#define MOXIE_INDEPENDENT _Pragma("GCC ivdep")
#endif

#if defined(__x86_64__)
#define MOXIE_TARGET_AVX2 __attribute__((target("avx2,fma,f16c,bmi2"), flatten, noinline))
#define MOXIE_TARGET_AVX512 \
  __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c,bmi2"), flatten, noinline))
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

/// A functor of one or two lines per element says `static constexpr bool elementwise = true` and gets loops of
/// constant length, which GCC vectorises already at -O2. For anything longer (a row, a token) they would only
/// double the code of each level.
template <class F>
concept Elementwise = requires { requires F::elementwise; };

/// A functor in which nothing vectorises (it follows indices, branches, draws) says `static constexpr bool one_level =
/// true` and is compiled once, for the baseline, not for each level: a third of the time to compile.
template <class F>
concept OneLevel = requires { requires F::one_level; };

// Target attributes cannot depend on template arguments, so these trampolines are the only functions that
// carry them; everything a kernel calls is inlined into one. The loops of `enter_each` are written out
// because Clang's flatten reaches only the calls it sees in the body.
inline constexpr Index loop_strip = 64;  // a constant trip count, which GCC vectorises at -O2

/// f(L{}).
template <class F>
MOXIE_TARGET_BASELINE void enter(Baseline, const F& f) {
  f(Baseline{});
}
/// f(i) for i in [first, last): independent of each other by the contract of `for_each`.
template <class F>
MOXIE_TARGET_BASELINE void enter_each(Baseline, const F& f, Index first, Index last) {
  const F g = f;
  if constexpr (Elementwise<F>) {
    Index i = first;
    for (; i + loop_strip <= last; i += loop_strip) {
      MOXIE_INDEPENDENT
      for (Index k = 0; k < loop_strip; ++k) g(i + k);
    }
    for (; i < last; ++i) g(i);
  } else {
    for (Index i = first; i < last; ++i) g(i);
  }
}
/// f(i, j) for j in [first, last).
template <class F>
MOXIE_TARGET_BASELINE void enter_each(Baseline, const F& f, Index row, Index rows, Index first,
                                      Index last) {
  const F g = f;
  for (Index i = row; i < row + rows; ++i) {
    if constexpr (Elementwise<F>) {
      Index j = first;
      for (; j + loop_strip <= last; j += loop_strip) {
        MOXIE_INDEPENDENT
        for (Index k = 0; k < loop_strip; ++k) g(i, j + k);
      }
      for (; j < last; ++j) g(i, j);
    } else {
      for (Index j = first; j < last; ++j) g(i, j);
    }
  }
}

#if defined(__x86_64__)
template <class F>
MOXIE_TARGET_AVX2 void enter(Avx2, const F& f) {
  f(Avx2{});
}
template <class F>
MOXIE_TARGET_AVX2 void enter_each(Avx2, const F& f, Index first, Index last) {
  const F g = f;
  if constexpr (Elementwise<F>) {
    Index i = first;
    for (; i + loop_strip <= last; i += loop_strip) {
      MOXIE_INDEPENDENT
      for (Index k = 0; k < loop_strip; ++k) g(i + k);
    }
    for (; i < last; ++i) g(i);
  } else {
    for (Index i = first; i < last; ++i) g(i);
  }
}
template <class F>
MOXIE_TARGET_AVX2 void enter_each(Avx2, const F& f, Index row, Index rows, Index first, Index last) {
  const F g = f;
  for (Index i = row; i < row + rows; ++i) {
    if constexpr (Elementwise<F>) {
      Index j = first;
      for (; j + loop_strip <= last; j += loop_strip) {
        MOXIE_INDEPENDENT
        for (Index k = 0; k < loop_strip; ++k) g(i, j + k);
      }
      for (; j < last; ++j) g(i, j);
    } else {
      for (Index j = first; j < last; ++j) g(i, j);
    }
  }
}
template <class F>
MOXIE_TARGET_AVX512 void enter(Avx512, const F& f) {
  f(Avx512{});
}
template <class F>
MOXIE_TARGET_AVX512 void enter_each(Avx512, const F& f, Index first, Index last) {
  const F g = f;
  if constexpr (Elementwise<F>) {
    Index i = first;
    for (; i + loop_strip <= last; i += loop_strip) {
      MOXIE_INDEPENDENT
      for (Index k = 0; k < loop_strip; ++k) g(i + k);
    }
    for (; i < last; ++i) g(i);
  } else {
    for (Index i = first; i < last; ++i) g(i);
  }
}
template <class F>
MOXIE_TARGET_AVX512 void enter_each(Avx512, const F& f, Index row, Index rows, Index first,
                                    Index last) {
  const F g = f;
  for (Index i = row; i < row + rows; ++i) {
    if constexpr (Elementwise<F>) {
      Index j = first;
      for (; j + loop_strip <= last; j += loop_strip) {
        MOXIE_INDEPENDENT
        for (Index k = 0; k < loop_strip; ++k) g(i, j + k);
      }
      for (; j < last; ++j) g(i, j);
    } else {
      for (Index j = first; j < last; ++j) g(i, j);
    }
  }
}
#endif

/// Runs f, a struct with `template <class L> MOXIE_INLINE void operator()(L) const`, compiled for `level`.
template <class F>
void at_level(Level level, const F& f) {
  switch (level) {
#if defined(__x86_64__)
    case Level::avx512: return enter(Avx512{}, f);
    case Level::avx2: return enter(Avx2{}, f);
#endif
    default: return enter(Baseline{}, f);
  }
}
/// Runs f(i) for each i of a range, or f(i, j) for each of a block, compiled for `level`.
template <class F, class... Range>
void each_at_level(Level level, const F& f, Range... range) {
  if constexpr (OneLevel<F>) {
    enter_each(Baseline{}, f, range...);
  } else {
    switch (level) {
#if defined(__x86_64__)
      case Level::avx512: return enter_each(Avx512{}, f, range...);
      case Level::avx2: return enter_each(Avx2{}, f, range...);
#endif
      default: return enter_each(Baseline{}, f, range...);
    }
  }
}

}  // namespace detail
}  // namespace moxie
