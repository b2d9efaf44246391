#pragma once

#include <concepts>
#include <cstdint>

#include "moxie/backend/cpu/loops.hpp"
#include "moxie/backend/cpu/narrow_weights.hpp"
#include "moxie/backend/cpu/options.hpp"

/// Products of experts with weights kept in bf16 (8 bits of significand): half the memory, sums in float. Two steps of the inner
/// dimension lie in one word. They are widened in registers, or, on machines that are faster so, the rows are rounded as well
/// and pairs are multiplied and added by one instruction (AVX512-BF16).
namespace moxie::detail {

#if defined(__x86_64__) && !defined(__CUDACC__)
#define MOXIE_DOT_BF16 1
#define MOXIE_TARGET_DOT                                                                     \
  __attribute__((target("avx512bf16,avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c,bmi2"), \
                 noinline))
#endif

/// Whether this machine can multiply pairs of bf16.
inline bool machine_has_dot() noexcept {
#if defined(MOXIE_DOT_BF16)
  return machine_level() == Level::avx512 && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}
/// Whether that is faster: on a Sapphire Rapids it ran at half the rate of the multiply-adds it stands for (bench/diary.md).
inline bool machine_prefers_dot() noexcept {
#if defined(MOXIE_DOT_BF16)
  return machine_has_dot() && __builtin_cpu_is("amd");
#else
  return false;
#endif
}

/// v = the bits of the nearest bf16 (ties to even) in the lower half of each lane; a NaN stays one.
template <class L>
MOXIE_INLINE void round_to_bf16(const Vec<float, L>& from, Vec<std::uint32_t, L>& v) {
  using U = Vec<std::uint32_t, L>;
  U u;
  __builtin_memcpy(&u, &from, sizeof u);
  const U magnitude = u & 0x7fffffffU;
  const U is_nan = (U)(magnitude > 0x7f800000U);
  const U rounded = (u + 0x7fffU + ((u >> 16U) & 1U)) >> 16U;
  const U quiet = (u >> 16U) | 0x40U;
  v = (is_nan & quiet) | (~is_nan & rounded);
}

/// Pairs of steps that `inner` steps make; an odd one is filled up with zero.
constexpr Index pairs_of(Index inner) { return divide_up(inner, 2); }

/// Weights of one expert [inner, cols] as panels (weight_panels.hpp) of pairs: step 2p in the lower half, 2p + 1 above.
struct PackPairs {
  const float* w;
  Index stride, inner, cols;
  std::uint32_t* out;

  template <class L>
  MOXIE_INLINE void operator()(L) const {
    constexpr Index vector = lanes<float, L>;
    constexpr Index panel = panel_vectors<L> * vector;
    const Index pairs = pairs_of(inner);
    for (Index j = 0; j < cols; j += panel) {
      const Index width = smaller(panel, divide_up(cols - j, vector) * vector);
      std::uint32_t* to = out + j * pairs;
      for (Index p = 0; p < pairs; ++p, to += width) {
        for (Index i = 0; i < width; i += vector) {
          Vec<std::uint32_t, L> low;
          Vec<std::uint32_t, L> high{};
          step<L>(2 * p, j + i, low);
          if (2 * p + 1 < inner) step<L>(2 * p + 1, j + i, high);
          low |= high << 16U;
          store(to + i, low);
        }
      }
    }
  }

 private:
  template <class L>
  MOXIE_INLINE void step(Index p, Index j, Vec<std::uint32_t, L>& v) const {
    constexpr Index vector = lanes<float, L>;
    Array<float, vector> rest = {};
    const float* from = w + p * stride + j;
    if (cols - j < vector) {
      copy_rest<float, L>(rest, from, cols - j);
      from = rest;
    }
    Vec<float, L> x;
    load(x, from);
    round_to_bf16<L>(x, v);
  }
};

/// Sums of a tile of L::tile_rows rows and N vectors.
struct PairTile {
  Index inner;
  const void* const* a;    // rows of floats, or of pairs for `dot_tile`
  const std::uint32_t* b;  // the panel
  const std::uint32_t*
      next;  // read after this tile: rows of the panel's width, `next_rows` in eight steps; or null
  Index next_rows;
  float* const* c;
  const float* alpha;
};

template <class L, int N>
struct WidenedTile {
  static constexpr int rows = L::tile_rows(N);
  const PairTile& t;

  MOXIE_INLINE void operator()(L) const {
    using V = Vec<float, L>;
    using U = Vec<std::uint32_t, L>;
    constexpr Index width = lanes<float, L>;
    constexpr Index ahead = 12;
    constexpr Index fetch = 8;
    Array<Array<V, N>, rows> sum;
    Array<const float*, rows> row;
    MOXIE_CPU_UNROLL
    for (int r = 0; r < rows; ++r) {
      row[r] = static_cast<const float*>(t.a[r]);
      MOXIE_CPU_UNROLL
      for (int j = 0; j < N; ++j) {
        sum[r][j] = V{};
        __builtin_prefetch(t.c[r] + j * width, 1);
      }
    }
    const std::uint32_t* right = t.b;
    const std::uint32_t* fetched = t.next;
    const Index end = t.inner / 2 * 2;
    for (Index p = 0; p != end;) {
      const Index stop = end - p > 2 * fetch ? p + 2 * fetch : end;
      for (Index s = 0; s < fetch * N; ++s)
        __builtin_prefetch(right + ahead * N * width + s * width);
      for (Index s = 0; s < t.next_rows * N; ++s, fetched += width)
        __builtin_prefetch(fetched, 0, 2);
      for (; p != stop; p += 2, right += N * width) {
        Array<V, N> factor;
        MOXIE_CPU_UNROLL
        for (int half = 0; half < 2; ++half) {
          MOXIE_CPU_UNROLL
          for (int j = 0; j < N; ++j) {
            U pair;
            load(pair, right + j * width);
            const U wide = half == 0 ? pair << 16U : pair & 0xffff0000U;
            __builtin_memcpy(&factor[j], &wide, sizeof wide);
          }
          MOXIE_CPU_UNROLL
          for (int r = 0; r < rows; ++r) {
            const V x = row[r][p + half] - V{};
            MOXIE_CPU_UNROLL
            for (int j = 0; j < N; ++j) sum[r][j] += x * factor[j];
          }
        }
      }
    }
    if (end != t.inner) {
      MOXIE_CPU_UNROLL
      for (int j = 0; j < N; ++j) {
        U pair;
        V factor;
        load(pair, right + j * width);
        const U wide = pair << 16U;
        __builtin_memcpy(&factor, &wide, sizeof wide);
        MOXIE_CPU_UNROLL
        for (int r = 0; r < rows; ++r) {
          const V x = row[r][end] - V{};
          sum[r][j] += x * factor;
        }
      }
    }
    MOXIE_CPU_UNROLL
    for (int r = 0; r < rows; ++r) {
      const V scale = t.alpha[r] - V{};
      MOXIE_CPU_UNROLL
      for (int j = 0; j < N; ++j) {
        const V y = scale * sum[r][j];
        store(t.c[r] + j * width, y);
      }
    }
  }
};

#if defined(MOXIE_DOT_BF16)
template <int N>
MOXIE_TARGET_DOT void dot_tile(const PairTile& t) {
  using L = Avx512;
  using V = Vec<float, L>;
  using U = Vec<std::uint32_t, L>;
#if defined(__clang__)
  using Pairs = int __attribute__((vector_size(64)));
#else
  using Pairs = short __attribute__((vector_size(64)));
#endif
  constexpr int rows = L::tile_rows(N);
  constexpr Index width = lanes<float, L>;
  constexpr Index ahead = 24;
  constexpr Index fetch = 8;
  Array<Array<V, N>, rows> sum;
  Array<const std::uint32_t*, rows> row;
  MOXIE_CPU_UNROLL
  for (int r = 0; r < rows; ++r) {
    row[r] = static_cast<const std::uint32_t*>(t.a[r]);
    MOXIE_CPU_UNROLL
    for (int j = 0; j < N; ++j) {
      sum[r][j] = V{};
      __builtin_prefetch(t.c[r] + j * width, 1);
    }
  }
  const std::uint32_t* right = t.b;
  const std::uint32_t* fetched = t.next;
  const Index end = pairs_of(t.inner);
  for (Index p = 0; p != end;) {
    const Index stop = end - p > fetch ? p + fetch : end;
    for (Index s = 0; s < fetch * N; ++s) __builtin_prefetch(right + ahead * N * width + s * width);
    for (Index s = 0; s < t.next_rows * N; ++s, fetched += width) __builtin_prefetch(fetched, 0, 2);
    for (; p != stop; ++p, right += N * width) {
      Array<Pairs, N> factor;
      MOXIE_CPU_UNROLL
      for (int j = 0; j < N; ++j) __builtin_memcpy(&factor[j], right + j * width, sizeof(Pairs));
      MOXIE_CPU_UNROLL
      for (int r = 0; r < rows; ++r) {
        const U pair = row[r][p] - U{};
        Pairs x;
        __builtin_memcpy(&x, &pair, sizeof x);
        MOXIE_CPU_UNROLL
        for (int j = 0; j < N; ++j) {
#if defined(__clang__)
          sum[r][j] = __builtin_ia32_dpbf16ps_512(sum[r][j], x, factor[j]);
#else
          sum[r][j] = __builtin_ia32_dpbf16ps_v16sf(sum[r][j], x, factor[j]);
#endif
        }
      }
    }
  }
  MOXIE_CPU_UNROLL
  for (int r = 0; r < rows; ++r) {
    const V scale = t.alpha[r] - V{};
    MOXIE_CPU_UNROLL
    for (int j = 0; j < N; ++j) {
      const V y = scale * sum[r][j];
      __builtin_memcpy(t.c[r] + j * width, &y, sizeof y);
    }
  }
}
#endif

/// out[r, :] = x(r, :) w_e from a copy of pairs.
struct PairTask {
  static constexpr Index stretch_bytes = 256 * 1024;  // of rounded rows at a time

  Factor<float> x;
  const std::uint32_t* packed;
  bool dot;  // by the machine's instruction: at Level::avx512 of a machine_has_dot() only
  std::uint32_t* scratch;  // of size(inner)
  MatrixView<float> out;
  Index inner;
  TileEnd end;
  Level level;
  Index e, begin_row, end_row, first_col, last_col;

  static constexpr Index stretch(Index inner) {
    return larger(stretch_bytes / (row_step(inner) * 4) / 24, 1) * 24;
  }
  /// Elements of scratch.
  static constexpr Index size(Index inner) { return stretch(inner) * row_step(inner); }

  template <class L>
  MOXIE_INLINE void operator()(L) const {
    constexpr Index vector = lanes<float, L>;
    constexpr int most = panel_vectors<L>;
    for (Index row = begin_row; row < end_row; row += stretch(inner)) {
      const Index rows = smaller(stretch(inner), end_row - row);
      if (dot) round_rows<L>(row, rows);
      for (Index j = first_col; j < last_col; j += most * vector) {
        const Index left = divide_up(out.cols - j, vector);
        if (most >= 3 && left >= 3) {
          run<L, 3 <= most ? 3 : 1>(row, rows, j);
        } else if (most >= 2 && left >= 2) {
          run<L, 2 <= most ? 2 : 1>(row, rows, j);
        } else {
          run<L, 1>(row, rows, j);
        }
      }
    }
  }

 private:
  /// Pairs from row to row: whole cache lines, and one more so that rows do not displace each other.
  static constexpr Index row_step(Index inner) { return divide_up(pairs_of(inner), 16) * 16 + 16; }

  template <class L>
  MOXIE_INLINE void round_rows(Index first, Index rows) const {
    constexpr Index vector = lanes<float, L>;
    using Halves = typename VectorOf<std::uint16_t, L::bytes / 2>::type;
    for (Index r = 0; r < rows; ++r) {
      const float* const from = x.row(first + r);
      auto* const to = reinterpret_cast<std::uint16_t*>(scratch + r * row_step(inner));
      for (Index p = 0; p < 2 * pairs_of(inner); p += vector) {
        Array<float, vector> rest = {};
        const float* at = from + p;
        if (inner - p < vector) {
          if (inner > p) copy_rest<float, L>(rest, at, inner - p);
          at = rest;
        }
        Vec<float, L> v;
        Vec<std::uint32_t, L> bits;
        load(v, at);
        round_to_bf16<L>(v, bits);
        const Halves halves = __builtin_convertvector(bits, Halves);
        store(to + p, halves);
      }
    }
  }
  template <class L, int N>
  MOXIE_INLINE void run(Index first_row, Index rows, Index j) const {
    constexpr Index height = L::tile_rows(N);
    constexpr Index width = N * lanes<float, L>;
    const Index pairs = pairs_of(inner);
    const Index size = packed_size<float>(pairs, out.cols);
    const bool whole = out.cols - j >= width;
    Array<const void*, height> from;
    Array<float*, height> to;
    Array<float, height> factor;
    Array<float, width> spare;
    Array<float, height * width> edge;
    PairTile tile{inner, from, packed + e * size + j * pairs, nullptr, 0, to, factor};
    const std::uint32_t* const next = j + width < last_col ? tile.b + width * pairs : nullptr;
    const Index share = divide_up(divide_up(pairs, divide_up(rows, height)), 8) * 8;
    for (Index i = 0; i < rows; i += height) {
      const Index count = smaller(height, rows - i);
      const Index fetched = i / height * share;
      tile.next = next != nullptr && fetched < pairs ? next + fetched * width : nullptr;
      tile.next_rows = tile.next != nullptr ? divide_up(8 * share, pairs) : 0;
      for (Index r = 0; r < height; ++r) {
        const Index at = i + smaller(r, count - 1);
        from[r] =
            dot ? static_cast<const void*>(scratch + at * row_step(inner)) : x.row(first_row + at);
        factor[r] = x.factor(first_row + at);
        to[r] = r >= count ? spare : whole ? out.row(first_row + at) + j : edge + r * width;
      }
      multiply<L, N>(tile);
      if (!whole) {
        for (Index r = 0; r < count; ++r)
          copy_elements<float, L>(out.row(first_row + i + r) + j, edge + r * width, out.cols - j);
      }
      if (end.call != nullptr)
        end.call(end.end, level, e, first_row + i, count, j, smaller(width, out.cols - j));
    }
  }
  template <class L, int N>
  MOXIE_INLINE void multiply(const PairTile& tile) const {
#if defined(MOXIE_DOT_BF16)
    if constexpr (std::same_as<L, Avx512>) {
      if (dot) return dot_tile<N>(tile);
    }
#endif
    enter(L{}, WidenedTile<L, N>{tile});
  }
};

/// Weights in pairs of bf16.
class Bf16Weights final : public NarrowWeights {
 public:
  std::size_t bytes(Index experts, Index inner, Index cols) const override {
    return static_cast<std::size_t>(experts * packed_size<float>(pairs_of(inner), cols)) *
           sizeof(std::uint32_t);
  }
  /// A stretch of rounded rows, of which a row is the inner dimension in pairs of 4 bytes, in whole cache lines and one more.
  Index scratch_bytes(Index widest) const override {
    // The stretch is cut to whole rows: a shorter one of wider rows may be larger than a longer one.
    return larger(PairTask::size(widest) * 4, PairTask::stretch_bytes);
  }
  void pack(Level level, MatrixView<const float> w, Index experts, void* out) const override {
    const Index inner = w.rows / experts;
    auto* const pairs = static_cast<std::uint32_t*>(out);
    for (Index e = 0; e < experts; ++e) {
      at_level(level, PackPairs{w.data + e * inner * w.stride, w.stride, inner, w.cols,
                                pairs + e * packed_size<float>(pairs_of(inner), w.cols)});
    }
  }
  void product(const NarrowProduct& p) const override {
    const Index experts = p.offset.size - 1;
    if (experts < 1 || p.offset[experts] == p.offset[0] || p.out.cols < 1) return;
    const int workers = p.executor == nullptr ? 1 : p.executor->workers();
    const Index panel = panel_columns<float>(p.level);
    const Index panels = divide_up(p.out.cols, panel);
    // Each task rounds the rows of its expert, so it has at least eight panels.
    const Index group = workers == 1 ? panels : smaller(8, panels);
    const Index by_cols = divide_up(panels, group);
    // Rows are cut as well where that alone would give workers too little to share.
    const Index by_rows = workers == 1 ? 1 : divide_up(4 * workers, experts * by_cols);
    const Index of_expert = by_cols * by_rows;
    const bool dot = p.level == Level::avx512 && machine_prefers_dot();
    const Index each = p.working.size / workers / 256 * 256;
    const auto* const pairs = static_cast<const std::uint32_t*>(p.weights);
    const auto task_of = [&](Index task, int worker) {
      const Index e = task / of_expert;
      const Index all = p.offset[e + 1] - p.offset[e];
      if (all < 1) return;
      const Index rows = even_part(all, divide_up(all, by_rows));
      const Index begin = smaller(p.offset[e] + task % of_expert / by_cols * rows, p.offset[e + 1]);
      const Index col = task % by_cols * group * panel;
      at_level(p.level,
               PairTask{p.x, pairs, dot,
                        reinterpret_cast<std::uint32_t*>(p.working.data + worker * each), p.out,
                        p.inner, p.end, p.level, e, begin, smaller(begin + rows, p.offset[e + 1]),
                        col, smaller(col + group * panel, p.out.cols)});
    };
    run_tasks(p.executor, experts * of_expert, TaskRef(task_of));
  }
};
inline constexpr Bf16Weights bf16_weights{};

}  // namespace moxie::detail

namespace moxie {

/// CpuOptions::copies: weights of experts in bf16, where no gradient is wanted.
///
///   CpuBackend<float> cpu({.copies = bf16_copies});
inline constexpr WeightCopies bf16_copies{true, &detail::bf16_weights};

}  // namespace moxie
