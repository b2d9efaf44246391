#pragma once

#include "moxie/backend/device/kernels/attention_tile.hpp"

#if defined(MOXIE_KERNELS)

/// Attention and its backward (ops/attention.hpp) without the matrix of weights: each block makes
/// the scores of its rows again, a tile at a time. Heads of up to 128 columns, any number of
/// tokens.
/// Source: Dao et al., "FlashAttention", 2022; the backward as in FlashAttention-2, 2023, with two
/// kernels, so that every sum belongs to one block.
namespace moxie::detail::device {

/// What a forward keeps of each row of queries; `rows` = images * heads * queries of the pass.
template <class T>
struct AttentionKept {
  T* memory;  // [(2 + width) rows], or null: nothing is kept
  Index rows;

  MOXIE_HD T& peak(Index row) const { return memory[row]; }            // the largest score
  MOXIE_HD T& inverse(Index row) const { return memory[rows + row]; }  // 1 / sum exp(score - peak)
  MOXIE_HD T* output(Index row, Index width) const { return memory + 2 * rows + row * width; }
};

/// o = softmax(scale q k^T) v. A block owns queries; blocks: images * heads * tiles of queries.
template <class T, int Width, class Space>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(AttentionTile<T, Width>::threads,
                                      AttentionTile<T, Width>::blocks)
    attention_forward(BatchView<const T, Space> q, BatchView<const T, Space> k,
                      BatchView<const T, Space> v, T scale, AttentionKept<T> kept,
                      BatchView<T, Space> o) {
  using Tile = AttentionTile<T, Width>;
  MOXIE_DYNAMIC_SHARED(T, query_rows);
  T* const key_rows = query_rows + Tile::own * Tile::step;
  T* const value_rows = key_rows + Tile::other * Tile::step;
  T* const weights = value_rows + Tile::other * Tile::step;
  const Index queries = q.first.rows;
  const Index keys = k.first.rows;
  const int width = static_cast<int>(q.first.cols);
  const AttentionPlace<Tile> place(queries, q.heads);
  const MatrixView<const T, Space> ks = k(place.image, place.head);
  const MatrixView<const T, Space> vs = v(place.image, place.head);
  load_rows<Tile, Tile::own>(q(place.image, place.head), place.first, query_rows);

  typename Tile::OfRows peak, sum;
  typename Tile::Results result;
  MOXIE_UNROLL
  for (int i = 0; i < Tile::down; ++i) {
    peak[i] = math::lowest<T>();
    sum[i] = T(0);
    MOXIE_UNROLL
    for (int c = 0; c < Tile::columns; ++c) result[i][c] = T(0);
  }
  for (Index first = 0; first < keys; first += Tile::other) {
    const int count = keys - first < Tile::other ? static_cast<int>(keys - first) : Tile::other;
    load_rows<Tile, Tile::other>(ks, first, key_rows);
    load_rows<Tile, Tile::other>(vs, first, value_rows);
    __syncthreads();
    typename Tile::Scores score;
    row_products(place, query_rows, key_rows, width, score);
    MOXIE_UNROLL
    for (int i = 0; i < Tile::down; ++i) {
      T largest = math::lowest<T>();
      MOXIE_UNROLL
      for (int j = 0; j < Tile::across; ++j) {
        score[i][j] *= scale;
        if (place.other(j) < count) largest = math::maximum(largest, score[i][j]);
      }
      largest = math::maximum(peak[i], maximum_of_lanes(largest));
      const T shrink = math::exp(peak[i] - largest);  // of what was summed under the lower peak
      peak[i] = largest;
      sum[i] *= shrink;
      MOXIE_UNROLL
      for (int c = 0; c < Tile::columns; ++c) result[i][c] *= shrink;
      MOXIE_UNROLL
      for (int j = 0; j < Tile::across; ++j) {
        score[i][j] = place.other(j) < count ? math::exp(score[i][j] - largest) : T(0);
        sum[i] += score[i][j];
      }
    }
    store_weights(place, score, weights);
    add_weighted_rows(place, weights, value_rows, count, result);
    __syncthreads();  // the rows have been read
  }

  MOXIE_UNROLL
  for (int i = 0; i < Tile::down; ++i) {
    const T inverse = T(1) / add_lanes(sum[i]);
    MOXIE_UNROLL
    for (int c = 0; c < Tile::columns; ++c) result[i][c] *= inverse;
    const Index row = place.first + place.own(i);
    if (kept.memory != nullptr && place.lane == 0 && row < queries) {
      kept.peak(place.unit * queries + row) = peak[i];
      kept.inverse(place.unit * queries + row) = inverse;
    }
  }
  const MatrixView<T, Space> os = o(place.image, place.head);
  const bool keep = kept.memory != nullptr;
  each_result(place, queries, width, result, [&](int i, int c, T x) {
    const Index row = place.first + place.own(i);
    os(row, c) = x;
    if (keep) kept.output(place.unit * queries + row, width)[c] = x;
  });
}

/// dq, and inner[row] = <d_o, o>, which is the sum over keys of p dp. A block owns queries.
template <class T, int Width, class Space>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(AttentionTile<T, Width>::threads,
                                      AttentionTile<T, Width>::blocks)
    attention_backward_queries(BatchView<const T, Space> q, BatchView<const T, Space> k,
                               BatchView<const T, Space> v, BatchView<const T, Space> d_o, T scale,
                               AttentionKept<T> kept, T* inner_of, BatchView<T, Space> dq) {
  using Tile = AttentionTile<T, Width>;
  MOXIE_DYNAMIC_SHARED(T, query_rows);
  T* const d_o_rows = query_rows + Tile::own * Tile::step;
  T* const key_rows = d_o_rows + Tile::own * Tile::step;
  T* const value_rows = key_rows + Tile::other * Tile::step;
  T* const weights = value_rows + Tile::other * Tile::step;
  const Index queries = q.first.rows;
  const Index keys = k.first.rows;
  const int width = static_cast<int>(q.first.cols);
  const AttentionPlace<Tile> place(queries, q.heads);
  const MatrixView<const T, Space> ks = k(place.image, place.head);
  const MatrixView<const T, Space> vs = v(place.image, place.head);
  load_rows<Tile, Tile::own>(q(place.image, place.head), place.first, query_rows);
  load_rows<Tile, Tile::own>(d_o(place.image, place.head), place.first, d_o_rows);
  __syncthreads();

  typename Tile::OfRows peak, inverse, inner;
  typename Tile::Results result;
  MOXIE_UNROLL
  for (int i = 0; i < Tile::down; ++i) {
    const Index row = place.first + place.own(i);
    const bool exists = row < queries;
    const Index at = place.unit * queries + row;
    peak[i] = exists ? kept.peak(at) : T(0);
    inverse[i] = exists ? kept.inverse(at) : T(0);
    T part = 0;
    if (exists) {
      for (int c = place.lane; c < width; c += Tile::lanes)
        part += d_o_rows[place.own(i) * Tile::step + c] * kept.output(at, width)[c];
    }
    inner[i] = add_lanes(part);
    if (exists && place.lane == 0) inner_of[at] = inner[i];
    MOXIE_UNROLL
    for (int c = 0; c < Tile::columns; ++c) result[i][c] = T(0);
  }
  for (Index first = 0; first < keys; first += Tile::other) {
    const int count = keys - first < Tile::other ? static_cast<int>(keys - first) : Tile::other;
    load_rows<Tile, Tile::other>(ks, first, key_rows);
    load_rows<Tile, Tile::other>(vs, first, value_rows);
    __syncthreads();
    typename Tile::Scores score, d_weight;
    row_products(place, query_rows, key_rows, width, score);
    row_products(place, d_o_rows, value_rows, width, d_weight);
    MOXIE_UNROLL
    for (int i = 0; i < Tile::down; ++i) {
      MOXIE_UNROLL
      for (int j = 0; j < Tile::across; ++j) {
        const T p = math::exp(scale * score[i][j] - peak[i]) * inverse[i];
        score[i][j] = place.other(j) < count ? p * (d_weight[i][j] - inner[i]) : T(0);
      }
    }
    store_weights(place, score, weights);
    add_weighted_rows(place, weights, key_rows, count, result);
    __syncthreads();
  }
  const MatrixView<T, Space> dqs = dq(place.image, place.head);
  each_result(place, queries, width, result,
              [&](int i, int c, T x) { dqs(place.first + place.own(i), c) = scale * x; });
}

/// dk and dv, from inner as attention_backward_queries left it. A block owns keys.
template <class T, int Width, class Space>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(AttentionTile<T, Width>::threads,
                                      AttentionTile<T, Width>::blocks)
    attention_backward_keys(BatchView<const T, Space> q, BatchView<const T, Space> k,
                            BatchView<const T, Space> v, BatchView<const T, Space> d_o, T scale,
                            AttentionKept<T> kept, const T* inner_of, BatchView<T, Space> dk,
                            BatchView<T, Space> dv) {
  using Tile = AttentionTile<T, Width>;
  MOXIE_DYNAMIC_SHARED(T, key_rows);
  T* const value_rows = key_rows + Tile::own * Tile::step;
  T* const query_rows = value_rows + Tile::own * Tile::step;
  T* const d_o_rows = query_rows + Tile::other * Tile::step;
  T* const weights = d_o_rows + Tile::other * Tile::step;
  const Index queries = q.first.rows;
  const Index keys = k.first.rows;
  const int width = static_cast<int>(q.first.cols);
  const AttentionPlace<Tile> place(keys, q.heads);
  const MatrixView<const T, Space> qs = q(place.image, place.head);
  const MatrixView<const T, Space> d_os = d_o(place.image, place.head);
  load_rows<Tile, Tile::own>(k(place.image, place.head), place.first, key_rows);
  load_rows<Tile, Tile::own>(v(place.image, place.head), place.first, value_rows);

  typename Tile::Results d_key, d_value;
  MOXIE_UNROLL
  for (int i = 0; i < Tile::down; ++i) {
    MOXIE_UNROLL
    for (int c = 0; c < Tile::columns; ++c) d_key[i][c] = d_value[i][c] = T(0);
  }
  for (Index first = 0; first < queries; first += Tile::other) {
    const int count =
        queries - first < Tile::other ? static_cast<int>(queries - first) : Tile::other;
    load_rows<Tile, Tile::other>(qs, first, query_rows);
    load_rows<Tile, Tile::other>(d_os, first, d_o_rows);
    __syncthreads();
    typename Tile::Scores weight, d_weight;
    row_products(place, key_rows, query_rows, width, weight);
    row_products(place, value_rows, d_o_rows, width, d_weight);
    MOXIE_UNROLL
    for (int j = 0; j < Tile::across; ++j) {
      const bool exists = place.other(j) < count;
      const Index at = place.unit * queries + first + place.other(j);
      const T peak = exists ? kept.peak(at) : T(0);
      const T inverse = exists ? kept.inverse(at) : T(0);
      const T inner = exists ? inner_of[at] : T(0);
      MOXIE_UNROLL
      for (int i = 0; i < Tile::down; ++i) {
        const T p = exists ? math::exp(scale * weight[i][j] - peak) * inverse : T(0);
        weight[i][j] = p;
        d_weight[i][j] = p * (d_weight[i][j] - inner);
      }
    }
    store_weights(place, weight, weights);
    add_weighted_rows(place, weights, d_o_rows, count, d_value);
    store_weights(place, d_weight, weights);
    add_weighted_rows(place, weights, query_rows, count, d_key);
    __syncthreads();
  }
  const MatrixView<T, Space> dks = dk(place.image, place.head);
  const MatrixView<T, Space> dvs = dv(place.image, place.head);
  each_result(place, keys, width, d_key,
              [&](int i, int c, T x) { dks(place.first + place.own(i), c) = scale * x; });
  each_result(place, keys, width, d_value,
              [&](int i, int c, T x) { dvs(place.first + place.own(i), c) = x; });
}

}  // namespace moxie::detail::device

#endif
