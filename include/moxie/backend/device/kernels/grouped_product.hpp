#pragma once

#include <cstddef>
#include <cstdint>

#include "moxie/backend/device/kernels/product_end.hpp"
#include "moxie/backend/device/kernels/product_tile.hpp"

#if defined(MOXIE_KERNELS)

/// Products of experts whose numbers of rows are known to the device alone: the host launches them
/// without waiting, so they can be captured in a graph. Rows are gathered while they are loaded. An
/// element of a result is one sum in a fixed order of one block: the same bits every time.
///
/// `Product` (SimtProduct, MmaProduct) says how a block multiplies two tiles, and of what size.
namespace moxie::detail::device {

/// core/rows.hpp as kernels read it: row r is scale[r] * x[index[r]].
template <class T, class Scalar>
struct GatheredRows {
  Strided<const T> x;
  const std::int32_t* index = nullptr;
  const Scalar* scale = nullptr;

  MOXIE_HD std::int32_t source(std::int32_t r) const { return index != nullptr ? index[r] : r; }
};

/// first[e] = tiles of [rows] of the experts before e, each `repeat` times, e <= experts.
template <int Threads>
MOXIE_DEVICE void count_tiles(const std::int32_t* offset, int experts, int rows, int repeat,
                              int* first) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int e = thread; e < experts; e += Threads) {
    first[e] = (offset[e + 1] - offset[e] + rows - 1) / rows * repeat;
  }
  __syncthreads();
  if (thread < warp_size) {
    const int each = (experts + warp_size - 1) / warp_size;
    const int begin = thread * each < experts ? thread * each : experts;
    const int end = begin + each < experts ? begin + each : experts;
    int own = 0;
    for (int e = begin; e < end; ++e) own += first[e];
    int upto = own;  // of this lane and those before it
    for (int distance = 1; distance < warp_size; distance *= 2) {
      const int before = __shfl_up_sync(whole_warp, upto, static_cast<unsigned>(distance));
      if (thread >= distance) upto += before;
    }
    int at = upto - own;
    for (int e = begin; e < end; ++e) {
      const int count = first[e];
      first[e] = at;
      at += count;
    }
    if (thread == warp_size - 1) first[experts] = upto;
  }
  __syncthreads();
}

/// The expert of a tile: the last one that begins at it or before, so one that has rows.
MOXIE_DEVICE int expert_of_tile(const int* first, int experts, int tile) {
  int low = 0;
  int high = experts;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (first[middle] <= tile) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

/// Bytes of shared memory of `grouped_product`: the buffers of both factors, the sources of the
/// rows of a tile, and where the tiles of each expert begin.
template <class Product, Op op>
constexpr std::size_t grouped_product_bytes(Index experts) {
  using T = typename Product::Element;
  using A = typename Product::template Along<Product::rows>;
  constexpr int b = op == Op::none ? Product::template Across<Product::cols>::size
                                   : Product::template Along<Product::cols>::size;
  return sizeof(T) * static_cast<std::size_t>(Product::stages * (A::size + b)) +
         sizeof(std::int32_t) * static_cast<std::size_t>(Product::rows + experts + 1);
}

/// `end` of the sums rows(r, :) op(w_e) for each row r of each expert e. w: [E * inner, cols], or
/// [E * cols, inner] for Op::transpose. Any number of blocks.
template <class Product, Op op, class Scalar, class End>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(Product::threads, Product::blocks_a_processor)
    grouped_product(GatheredRows<typename Product::Element, Scalar> rows, int inner,
                    const std::int32_t* offset, int experts,
                    Strided<const typename Product::Element> w, int cols, End end) {
  using T = typename Product::Element;
  constexpr bool across = op == Op::none;
  using A = typename Product::template Along<Product::rows>;
  using BAcross = typename Product::template Across<Product::cols>;
  using BAlong = typename Product::template Along<Product::cols>;
  constexpr int b_size = across ? BAcross::size : BAlong::size;
  MOXIE_DYNAMIC_SHARED(unsigned char, memory);
  T* const a_tiles = reinterpret_cast<T*>(memory);
  T* const b_tiles = a_tiles + Product::stages * A::size;
  std::int32_t* const sources = reinterpret_cast<std::int32_t*>(b_tiles + Product::stages * b_size);
  int* const first_tile = sources + Product::rows;

  const int across_tiles = (cols + Product::cols - 1) / Product::cols;
  count_tiles<Product::threads>(offset, experts, Product::rows, across_tiles, first_tile);
  const int tiles = first_tile[experts];
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    const int e = expert_of_tile(first_tile, experts, tile);
    const int local = tile - first_tile[e];
    const std::int32_t row = offset[e] + local / across_tiles * Product::rows;
    const std::int32_t last = offset[e + 1];
    const int col = local % across_tiles * Product::cols;
    for (int i = static_cast<int>(threadIdx.x); i < Product::rows; i += Product::threads) {
      sources[i] = row + i < last ? rows.source(row + i) : -1;
    }
    __syncthreads();  // sources are there, and the buffers of the tile before are free

    Product product;
    const Strided<const T> w_e{w.row(Index{e} * (across ? inner : cols)), w.stride, w.aligned};
    const auto load = [&](int step, int buffer) {
      const int k = step * Product::inner;
      load_tile<A, Product::threads>(a_tiles + buffer * A::size, rows.x, k, inner, [&](int i) {
        const std::int32_t source = sources[i];
        return source < 0 ? nullptr : rows.x.row(source);
      });
      T* const b_tile = b_tiles + buffer * b_size;
      if constexpr (across) {
        load_tile<BAcross, Product::threads>(b_tile, w_e, col, cols, [&](int i) {
          return k + i < inner ? w_e.row(k + i) : nullptr;
        });
      } else {
        load_tile<BAlong, Product::threads>(b_tile, w_e, k, inner, [&](int i) {
          return col + i < cols ? w_e.row(col + i) : nullptr;
        });
      }
    };
    const auto use = [&](int buffer) {
      product.template multiply<false, across>(a_tiles + buffer * A::size,
                                               b_tiles + buffer * b_size, nullptr);
    };
    pipeline<Product::stages>((inner + Product::inner - 1) / Product::inner, load, use);

    product.template each_run<false, across>(
        [&]<int N>(int i, int j, const Run<typename Product::Sum, N>& run) {
          const std::int32_t r = row + i;
          const int left = cols - col - j;
          if (r >= last || left <= 0) return;
          Run<typename Product::Sum, N> v;
          const Scalar factor = rows.scale != nullptr ? rows.scale[r] : Scalar(1);
          MOXIE_UNROLL
          for (int u = 0; u < N; ++u) v[u] = factor * run[u];
          end(e, r, col + j, v, left);
        });
  }
}

/// Bytes of shared memory of `grouped_weights`: the buffers of both factors, and of the scales if
/// there may be any.
template <class Product>
constexpr std::size_t grouped_weights_bytes() {
  using A = typename Product::template Across<Product::rows>;
  using B = typename Product::template Across<Product::cols>;
  return sizeof(typename Product::Element) *
             static_cast<std::size_t>(Product::stages * (A::size + B::size)) +
         (Product::scales ? sizeof(typename Product::Sum) *
                                static_cast<std::size_t>(Product::stages * Product::inner)
                          : 0);
}

/// What lane l of each warp knows of row `first + l` of a step: read while the step before is
/// multiplied, so that its copies need not wait for it.
template <class T, class Scalar>
class RowsAhead {
 public:
  MOXIE_DEVICE RowsAhead(const GatheredRows<T, Scalar>& rows, std::int32_t last)
      : rows_(rows), last_(last) {}

  MOXIE_DEVICE void read(std::int32_t first) {
    const std::int32_t r = first + static_cast<std::int32_t>(threadIdx.x) % warp_size;
    source_ = r < last_ ? rows_.source(r) : -1;
    factor_ = rows_.scale != nullptr && r < last_ ? rows_.scale[r] : Scalar(1);
  }
  /// By whole warps.
  MOXIE_DEVICE const T* row(int i) const {
    const std::int32_t source = __shfl_sync(whole_warp, source_, i);
    return source < 0 ? nullptr : rows_.x.row(source);
  }
  MOXIE_DEVICE Scalar factor() const { return factor_; }

 private:
  const GatheredRows<T, Scalar>& rows_;
  std::int32_t last_;
  std::int32_t source_ = -1;
  Scalar factor_ = 1;
};

/// dw_e += sum over the rows r of e of x(r, :)^T dy(r, :). x: `height` wide; dy: `cols` wide;
/// dw: [E * height, cols]. A block for each tile of dw. Rows have no scale unless Product::scales.
template <class Product>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(Product::threads, Product::blocks_a_processor)
    grouped_weights(GatheredRows<typename Product::Element, typename Product::Sum> x,
                    GatheredRows<typename Product::Element, typename Product::Sum> dy,
                    const std::int32_t* offset, int height, int cols,
                    Strided<typename Product::Sum> dw) {
  using T = typename Product::Element;
  using Sum = typename Product::Sum;
  using A = typename Product::template Across<Product::rows>;
  using B = typename Product::template Across<Product::cols>;
  static_assert(Product::inner <= warp_size);
  MOXIE_DYNAMIC_SHARED(unsigned char, memory);
  T* const a_tiles = reinterpret_cast<T*>(memory);
  T* const b_tiles = a_tiles + Product::stages * A::size;
  Sum* const factors = reinterpret_cast<Sum*>(b_tiles + Product::stages * B::size);

  const int down = (height + Product::rows - 1) / Product::rows;
  const int right = (cols + Product::cols - 1) / Product::cols;
  const int tile = static_cast<int>(blockIdx.x);
  const int e = tile / (down * right);
  const int row = tile / right % down * Product::rows;
  const int col = tile % right * Product::cols;
  const std::int32_t first = offset[e];
  const std::int32_t last = offset[e + 1];
  if (first >= last) return;
  const bool scaled = Product::scales && (x.scale != nullptr || dy.scale != nullptr);

  RowsAhead<T, Sum> x_ahead(x, last);
  RowsAhead<T, Sum> dy_ahead(dy, last);
  x_ahead.read(first);
  dy_ahead.read(first);
  Product product;
  const auto load = [&](int step, int buffer) {
    load_tile<A, Product::threads>(a_tiles + buffer * A::size, x.x, row, height,
                                   [&](int i) { return x_ahead.row(i); });
    load_tile<B, Product::threads>(b_tiles + buffer * B::size, dy.x, col, cols,
                                   [&](int i) { return dy_ahead.row(i); });
    if (scaled && threadIdx.x < Product::inner) {
      factors[buffer * Product::inner + static_cast<int>(threadIdx.x)] =
          x_ahead.factor() * dy_ahead.factor();
    }
    const std::int32_t next = first + (step + 1) * Product::inner;
    x_ahead.read(next);
    dy_ahead.read(next);
  };
  const auto use = [&](int buffer) {
    product.template multiply<true, true>(a_tiles + buffer * A::size, b_tiles + buffer * B::size,
                                          scaled ? factors + buffer * Product::inner : nullptr);
  };
  pipeline<Product::stages>((last - first + Product::inner - 1) / Product::inner, load, use);

  product.template each_run<true, true>([&]<int N>(int i, int j, const Run<Sum, N>& run) {
    const int left = cols - col - j;
    if (row + i >= height || left <= 0) return;
    Sum* const to = dw.row(Index{e} * height + row + i) + col + j;
    Run<Sum, N> v;
    MOXIE_UNROLL
    for (int u = 0; u < N; ++u) v[u] = u < left ? to[u] + run[u] : run[u];
    store_run(to, v, left);
  });
}

}  // namespace moxie::detail::device

#endif
