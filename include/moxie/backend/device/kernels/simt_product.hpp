#pragma once

#include <type_traits>

#include "moxie/backend/device/kernels/product_tile.hpp"

#if defined(MOXIE_KERNELS)

namespace moxie::detail::device {

/// The part of a block in sum += a b, for tiles a [Rows, inner] and b [inner, Cols]: ordinary
/// multiply-adds, exact in float, each thread a patch of [PatchRows, PatchCols] sums.
template <class T, int Rows, int Cols, int Inner, int PatchRows, int PatchCols>
class SimtProduct {
 public:
  using Element = T;
  using Sum = T;
  static constexpr int rows = Rows;
  static constexpr int cols = Cols;
  static constexpr int inner = Inner;
  static constexpr int threads = Rows / PatchRows * (Cols / PatchCols);
  static constexpr int stages = 4;
  static constexpr int blocks_a_processor = threads < 256 ? 256 / threads : 1;
  static constexpr bool scales = true;

  template <int Length>
  using Along = Tile<T, Length, Inner, Chunk<T>::size>;
  template <int Length>
  using Across = Tile<T, Inner, Length, Chunk<T>::size>;

  /// `factor`: if not null, [inner], by which the steps of `a` are multiplied.
  template <bool AAcross, bool BAcross>
  MOXIE_DEVICE void multiply(const T* a, const T* b, const T* factor) {
    MOXIE_UNROLL
    for (int k = 0; k < Inner; k += chunk) {
      Array<Array<T, PatchRows>, chunk> x;
      Array<Array<T, PatchCols>, chunk> y;
      read<AAcross, Rows, PatchRows>(a, k, row_thread(), x);
      read<BAcross, Cols, PatchCols>(b, k, col_thread(), y);
      if (factor != nullptr) {
        MOXIE_UNROLL
        for (int v = 0; v < chunk; ++v) {
          MOXIE_UNROLL
          for (int i = 0; i < PatchRows; ++i) x[v][i] *= factor[k + v];
        }
      }
      MOXIE_UNROLL
      for (int v = 0; v < chunk; ++v) {
        MOXIE_UNROLL
        for (int i = 0; i < PatchRows; ++i) {
          MOXIE_UNROLL
          for (int j = 0; j < PatchCols; ++j) sum_[i][j] += x[v][i] * y[v][j];
        }
      }
    }
  }

  /// f(row, col, sums of [row, col .. col + n)) for all runs of n neighbours that this thread has.
  template <bool AAcross, bool BAcross, class F>
  MOXIE_DEVICE void each_run(const F& f) const {
    constexpr int n = BAcross ? chunk : 1;
    MOXIE_UNROLL
    for (int i = 0; i < PatchRows; ++i) {
      MOXIE_UNROLL
      for (int j = 0; j < PatchCols; j += n) {
        Run<T, n> run;
        MOXIE_UNROLL
        for (int v = 0; v < n; ++v) run[v] = sum_[i][j + v];
        f(place<AAcross, Rows, PatchRows>(i, row_thread()),
          place<BAcross, Cols, PatchCols>(j, col_thread()), run);
      }
    }
  }

 private:
  static constexpr int chunk = Chunk<T>::size;
  static_assert(PatchRows % chunk == 0 && PatchCols % chunk == 0 && Inner % chunk == 0);

  MOXIE_DEVICE static int row_thread() {
    return static_cast<int>(threadIdx.x) / (Cols / PatchCols);
  }
  MOXIE_DEVICE static int col_thread() {
    return static_cast<int>(threadIdx.x) % (Cols / PatchCols);
  }

  /// Which row (column) of the tile the patch's i-th is: so that neighbouring threads read
  /// neighbouring chunks of a tile across, and neighbouring runs of one along.
  template <bool IsAcross, int Length, int Patch>
  MOXIE_DEVICE static int place(int i, int thread) {
    constexpr int others = Length / Patch;
    return IsAcross ? i / chunk * chunk * others + thread * chunk + i % chunk : i * others + thread;
  }

  template <bool IsAcross, int Length, int Patch>
  MOXIE_DEVICE static void read(const T* tile, int k, int thread,
                                Array<Array<T, Patch>, chunk>& x) {
    if constexpr (IsAcross) {
      MOXIE_UNROLL
      for (int v = 0; v < chunk; ++v) {
        MOXIE_UNROLL
        for (int i = 0; i < Patch; i += chunk) {
          const Chunk<T> part = read_chunk(tile + (k + v) * Across<Length>::stride +
                                           place<IsAcross, Length, Patch>(i, thread));
          MOXIE_UNROLL
          for (int u = 0; u < chunk; ++u) x[v][i + u] = part[u];
        }
      }
    } else {
      MOXIE_UNROLL
      for (int i = 0; i < Patch; ++i) {
        const Chunk<T> part = read_chunk(
            tile + place<IsAcross, Length, Patch>(i, thread) * Along<Length>::stride + k);
        MOXIE_UNROLL
        for (int v = 0; v < chunk; ++v) x[v][i] = part[v];
      }
    }
  }

  Array<Array<T, PatchCols>, PatchRows> sum_ = {};
};

}  // namespace moxie::detail::device

#endif
