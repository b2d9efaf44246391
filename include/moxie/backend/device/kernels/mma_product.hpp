#pragma once

#include <cstdint>
#include <type_traits>

#include "moxie/backend/device/kernels/mma.hpp"
#include "moxie/backend/device/kernels/product_tile.hpp"
#include "moxie/core/bf16.hpp"

#if defined(MOXIE_KERNELS)

namespace moxie::detail::device {

/// As SimtProduct, by matrix instructions, which sum in float: `T` is bf16, or float for products
/// of tf32 (10 bits of fraction). Each warp has [WarpRows, WarpCols] of the sums.
///
/// A fragment is what a lane holds of the factors of one instruction, in words of two bf16 or one
/// float: both kinds distribute the words of [16, 32 bytes] and [8, 32 bytes] over lanes alike.
template <class T, int Rows, int Cols, int WarpRows, int WarpCols, int BlocksAProcessor>
class MmaProduct {
  static constexpr int word = 4 / static_cast<int>(sizeof(T));  // elements in one
  static constexpr int step = 8 * word;                         // inner elements of an instruction

 public:
  using Element = T;
  using Sum = float;
  static constexpr int rows = Rows;
  static constexpr int cols = Cols;
  static constexpr int inner = 2 * step;
  static constexpr int threads = Rows / WarpRows * (Cols / WarpCols) * warp_size;
  static constexpr int stages = 4;
  static constexpr int blocks_a_processor = BlocksAProcessor;
  /// Whether it takes factors of steps. Rows of bf16 are multiplied by theirs before they are
  /// rounded: here each would be unpacked, and rounded twice.
  static constexpr bool scales = std::is_same_v<T, float>;

  // Across, eight runs of bf16 are read 16 bytes each; of float, four runs of eight words.
  template <int Length>
  using Along = Tile<T, Length, inner, Chunk<T>::size>;
  template <int Length>
  using Across = Tile<T, inner, Length, 8>;

  /// `factor`: if not null, [inner], by which the steps of `a` are multiplied before they are
  /// rounded; null unless `scales`.
  template <bool AAcross, bool BAcross>
  MOXIE_DEVICE void multiply(const T* a, const T* b, const float* factor) {
    const int first_row = warp() / (Cols / WarpCols) * WarpRows;
    const int first_col = warp() % (Cols / WarpCols) * WarpCols;
    MOXIE_UNROLL
    for (int k = 0; k < inner; k += step) {
      Array<std::uint32_t[4], WarpRows / 16> x;
      Array<std::uint32_t[4], WarpCols / 16> y;  // each two fragments of 8 columns
      MOXIE_UNROLL
      for (int i = 0; i < WarpRows / 16; ++i) read_a<AAcross>(a, first_row + 16 * i, k, x[i]);
      MOXIE_UNROLL
      for (int j = 0; j < WarpCols / 16; ++j) read_b<BAcross>(b, first_col + 16 * j, k, y[j]);
      if constexpr (std::is_same_v<T, float>) {
        if (factor != nullptr) {
          MOXIE_UNROLL
          for (int i = 0; i < WarpRows / 16; ++i) scale(factor + k, x[i]);
        }
        MOXIE_UNROLL
        for (int i = 0; i < WarpRows / 16; ++i) round(x[i]);
        MOXIE_UNROLL
        for (int j = 0; j < WarpCols / 16; ++j) round(y[j]);
      }
      MOXIE_UNROLL
      for (int i = 0; i < WarpRows / 16; ++i) {
        MOXIE_UNROLL
        for (int j = 0; j < WarpCols / 8; ++j) {
          const std::uint32_t pair[2] = {y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]};
          if constexpr (std::is_same_v<T, float>) {
            mma_tf32(sum_[i][j], x[i], pair);
          } else {
            mma_bf16(sum_[i][j], x[i], pair);
          }
        }
      }
    }
  }

  /// f(row, col, sums of [row, col] and [row, col + 1]) for all such pairs that this thread has.
  template <bool AAcross, bool BAcross, class F>
  MOXIE_DEVICE void each_run(const F& f) const {
    const int row = warp() / (Cols / WarpCols) * WarpRows + lane() / 4;
    const int col = warp() % (Cols / WarpCols) * WarpCols + lane() % 4 * 2;
    MOXIE_UNROLL
    for (int i = 0; i < WarpRows / 16; ++i) {
      MOXIE_UNROLL
      for (int half = 0; half < 2; ++half) {
        MOXIE_UNROLL
        for (int j = 0; j < WarpCols / 8; ++j) {
          const Run<float, 2> run{{sum_[i][j][2 * half], sum_[i][j][2 * half + 1]}};
          f(row + 16 * i + 8 * half, col + 8 * j, run);
        }
      }
    }
  }

 private:
  MOXIE_DEVICE static int lane() { return static_cast<int>(threadIdx.x) % warp_size; }
  MOXIE_DEVICE static int warp() { return static_cast<int>(threadIdx.x) / warp_size; }

  /// The fragment of rows [row, row + 16) and steps [k, k + step): words of rows 0-7 and 8-15 of
  /// the first half of the steps, then of the second.
  template <bool IsAcross>
  MOXIE_DEVICE static void read_a(const T* tile, int row, int k, std::uint32_t (&x)[4]) {
    if constexpr (!IsAcross) {
      load_matrices(
          x, tile + (row + lane() % 16) * Along<Rows>::stride + k + lane() / 16 * (step / 2));
    } else if constexpr (word == 2) {
      load_matrices_transposed(x, tile + (k + lane() % 8 + lane() / 16 * 8) * Across<Rows>::stride +
                                      row + lane() / 8 % 2 * 8);
    } else {
      read_words<Across<Rows>::stride>(tile + k * Across<Rows>::stride + row, x[0], x[1], x[2],
                                       x[3]);
    }
  }
  /// The fragments of columns [col, col + 8), first and second half of the steps, and of
  /// [col + 8, col + 16).
  template <bool IsAcross>
  MOXIE_DEVICE static void read_b(const T* tile, int col, int k, std::uint32_t (&y)[4]) {
    if constexpr (!IsAcross) {
      load_matrices(y, tile + (col + lane() % 8 + lane() / 16 * 8) * Along<Cols>::stride + k +
                           lane() / 8 % 2 * (step / 2));
    } else if constexpr (word == 2) {
      load_matrices_transposed(
          y, tile + (k + lane() % 16) * Across<Cols>::stride + col + lane() / 16 * 8);
    } else {
      read_words<Across<Cols>::stride>(tile + k * Across<Cols>::stride + col, y[0], y[2], y[1],
                                       y[3]);
    }
  }
  /// Of four runs and the four after them, the words of columns 0-7 and 8-15.
  template <int Stride>
  MOXIE_DEVICE static void read_words(const float* tile, std::uint32_t& low, std::uint32_t& right,
                                      std::uint32_t& high, std::uint32_t& high_right) {
    const float* const at = tile + lane() % 4 * Stride + lane() / 4;
    low = bits_of(at[0]);
    right = bits_of(at[8]);
    high = bits_of(at[4 * Stride]);
    high_right = bits_of(at[4 * Stride + 8]);
  }

  /// Words 0 and 1 of a fragment of `a` are of step lane % 4, 2 and 3 of that half an instruction
  /// later.
  MOXIE_DEVICE static void scale(const float* factor, std::uint32_t (&x)[4]) {
    MOXIE_UNROLL
    for (int i = 0; i < 4; ++i)
      x[i] = bits_of(__builtin_bit_cast(float, x[i]) * factor[i / 2 * (step / 2) + lane() % 4]);
  }
  MOXIE_DEVICE static void round(std::uint32_t (&x)[4]) {
    MOXIE_UNROLL
    for (int i = 0; i < 4; ++i) x[i] = to_tf32(__builtin_bit_cast(float, x[i]));
  }

  MOXIE_DEVICE static std::uint32_t bits_of(float v) {
    return __builtin_bit_cast(std::uint32_t, v);
  }

  Array<Array<float[4], WarpCols / 8>, WarpRows / 16> sum_ = {};
};

}  // namespace moxie::detail::device

#endif
