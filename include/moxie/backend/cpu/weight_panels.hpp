#pragma once

#include "moxie/backend/cpu/pack.hpp"
#include "moxie/backend/cpu/partition.hpp"

/// Weights packed for the products of experts: for each expert, panels as wide as a tile, each with all steps of the inner
/// dimension one after the other, so that a tile reads one stream of memory. The panel that begins at column j begins at
/// element j * inner of its expert. The last one is as narrow as whole vectors allow and filled up with zeros.
namespace moxie::detail {

/// Vectors of a panel: at three, eight rows of sums stay in the registers of the widest level.
template <class L>
inline constexpr int panel_vectors = L::vectors < 3 ? L::vectors : 3;

inline constexpr Index panel_bytes = 192;  // of one step, at the widest level

/// Columns of a panel.
template <class T>
constexpr Index panel_columns(Level level) {
  const Index bytes = level == Level::avx512 ? Avx512::bytes * panel_vectors<Avx512>
                      : level == Level::avx2 ? Avx2::bytes * panel_vectors<Avx2>
                                             : Baseline::bytes * panel_vectors<Baseline>;
  return bytes / static_cast<Index>(sizeof(T));
}
/// Elements of a packed [inner x cols], on any level.
template <class T>
constexpr Index packed_size(Index inner, Index cols) {
  constexpr Index widest = 64 / static_cast<Index>(sizeof(T));
  return inner * divide_up(cols, widest) * widest;
}

/// The panel of op(w) from column j on, `width` columns of it: element (p, i) at out[p * width + i].
template <class T>
struct PackPanel {
  const Factor<T>& w;
  Index first, inner, j, cols, width;
  T* out;

  template <class L>
  MOXIE_INLINE void operator()(L) const {
    if (w.op == Op::none) {
      pack_rows<T, L>(w, first, inner, j, smaller(width, cols - j), width, out);
    } else {
      pack_transposed<T, L>(w, first, inner, j, smaller(width, cols - j), width, out);
    }
  }
};
template <class T, class L>
MOXIE_INLINE void pack_panel(const Factor<T>& w, Index first, Index inner, Index j, Index cols,
                             Index width, T* out) {
  enter(L{}, PackPanel<T>{w, first, inner, j, cols, width, out});
}

/// Packs N whole vectors of each of `count` rows.
template <class T, class L, int N>
MOXIE_INLINE void copy_panel(const T* from, Index stride, Index count, T* out) {
  using V = Vec<T, L>;
  constexpr Index vector = lanes<T, L>;
  constexpr Index ahead = 16;
  for (Index p = 0; p < count; ++p, from += stride, out += N * vector) {
    Array<V, N> v;
    MOXIE_CPU_UNROLL
    for (int i = 0; i < N; ++i) __builtin_prefetch(from + ahead * stride + i * vector);
    MOXIE_CPU_UNROLL
    for (int i = 0; i < N; ++i) load(v[i], from + i * vector);
    MOXIE_CPU_UNROLL
    for (int i = 0; i < N; ++i) store(out + i * vector, v[i]);
  }
}

/// Packs the weights of one expert, from one whole panel to another.
template <class T>
struct PackWeights {
  Factor<T> w;  // of the expert
  Index inner, cols;
  Index first_col, last_col;
  T* out;  // of the expert

  template <class L>
  MOXIE_INLINE void operator()(L) const {
    constexpr Index vector = lanes<T, L>;
    constexpr Index panel = panel_vectors<L> * vector;
    // Some rows of all panels at a time: their memory is read in its order.
    const Index rows = w.op == Op::none ? 8 : inner;
    for (Index p = 0; p < inner; p += rows) {
      for (Index j = first_col; j < last_col; j += panel) {
        const Index width = smaller(panel, divide_up(cols - j, vector) * vector);
        pack_panel<T, L>(w, p, smaller(rows, inner - p), j, cols, width,
                         out + j * inner + p * width);
      }
    }
  }
};

}  // namespace moxie::detail
