#pragma once

#include <cstddef>

#include "moxie/backend/device/kernels/packs.hpp"
#include "moxie/backend/device/kernels/strip_row.hpp"

#if defined(MOXIE_KERNELS)

/// The small products of attention inside a block, between rows in shared memory.
///
/// A block owns `own` rows of one side (queries or keys) of an image and head, and goes through the
/// rows of the other side, `other` at a time. Its threads are `groups` groups of 16 lanes: a group
/// has `down` rows of its own, and a lane `across` of the others. So what is made of a row of
/// scores, its maximum, its weights, stays inside half a warp.
namespace moxie::detail::device {

/// Rows as wide as `Width` columns at most.
template <class T, int Width>
struct AttentionTile {
  using Scalar = T;
  static constexpr int width = Width;
  static constexpr int lanes = strip_lanes;
  static constexpr int groups = 8;
  static constexpr int threads = lanes * groups;
  static constexpr int blocks = 3;  // on a multiprocessor, at least: as shared memory allows
  static constexpr int pack = pack_width<T>;
  static constexpr int down = 16 / static_cast<int>(sizeof(T));
  static constexpr int across = 1024 / (Width * static_cast<int>(sizeof(T)));
  static constexpr int own = groups * down;
  static constexpr int other = lanes * across;
  static constexpr int parts = Width / (lanes * pack);  // packs of a row of results a lane has
  static constexpr int columns = parts * pack;
  // A pack more than the width, so that the same pack of neighbouring rows lies in other banks.
  static constexpr int step = Width + pack;
  static constexpr int score_step = other + pack;
  // What a thread has of scores and of results, and of each of its rows.
  using Scores = T[static_cast<std::size_t>(down)][static_cast<std::size_t>(across)];
  using Results = T[static_cast<std::size_t>(down)][static_cast<std::size_t>(columns)];
  using OfRows = T[static_cast<std::size_t>(down)];
  static_assert(across >= 1 && parts >= 1 && other % pack == 0);

  static constexpr std::size_t bytes(int own_blocks, int other_blocks) {
    return static_cast<std::size_t>(own_blocks * own * step + other_blocks * other * step +
                                    own * score_step) *
           sizeof(T);
  }
};

/// Which rows of which image and head a block owns, and which of them a thread has.
template <class Tile>
struct AttentionPlace {
  Index image, head, first;
  Index unit;  // image * heads + head
  int group, lane;

  MOXIE_DEVICE AttentionPlace(Index rows, Index heads) {
    const Index tiles = blocks_of(rows, Tile::own);
    unit = Index{blockIdx.x} / tiles;
    first = (Index{blockIdx.x} % tiles) * Tile::own;
    image = unit / heads;
    head = unit % heads;
    group = static_cast<int>(threadIdx.x) / Tile::lanes;
    lane = static_cast<int>(threadIdx.x) % Tile::lanes;
  }
  /// Of the rows in shared memory.
  MOXIE_DEVICE int own(int i) const { return group * Tile::down + i; }
  MOXIE_DEVICE int other(int j) const { return lane + Tile::lanes * j; }
  MOXIE_DEVICE int column(int part) const { return (part * Tile::lanes + lane) * Tile::pack; }
};

/// to[0 .. Rows) = rows of `from` from `first` on; zeros past its last row and column.
template <class Tile, int Rows, class T, class Space>
MOXIE_DEVICE void load_rows(const MatrixView<const T, Space>& from, Index first, T* to) {
  constexpr int batch = 8;  // elements a thread fetches before it stores the first
  constexpr int rounds = Rows * Tile::width / Tile::threads;
  static_assert(rounds % batch == 0);
  const int thread = static_cast<int>(threadIdx.x);
  const Index count = from.rows - first;
  for (int round = 0; round < rounds; round += batch) {
    T fetched[std::size_t{batch}];
    MOXIE_UNROLL
    for (int i = 0; i < batch; ++i) {
      const int at = (round + i) * Tile::threads + thread;
      const int r = at / Tile::width;
      const int c = at % Tile::width;
      fetched[i] = r < count && c < from.cols ? from(first + r, c) : T(0);
    }
    MOXIE_UNROLL
    for (int i = 0; i < batch; ++i) {
      const int at = (round + i) * Tile::threads + thread;
      to[at / Tile::width * Tile::step + at % Tile::width] = fetched[i];
    }
  }
}

/// score[i][j] = <row own(i) of a, row other(j) of b>, over `depth` columns, rounded up to packs.
template <class Tile, class T>
MOXIE_DEVICE void row_products(const AttentionPlace<Tile>& place, const T* a, const T* b, int depth,
                               typename Tile::Scores& score) {
  constexpr int pack = Tile::pack;
  MOXIE_UNROLL
  for (int i = 0; i < Tile::down; ++i) {
    MOXIE_UNROLL
    for (int j = 0; j < Tile::across; ++j) score[i][j] = T(0);
  }
  for (int d = 0; d < depth; d += pack) {
    Pack<T, pack> left[static_cast<std::size_t>(Tile::down)];
    Pack<T, pack> right[static_cast<std::size_t>(Tile::across)];
    MOXIE_UNROLL
    for (int i = 0; i < Tile::down; ++i)
      left[i] = load_pack<pack>(a + place.own(i) * Tile::step + d);
    MOXIE_UNROLL
    for (int j = 0; j < Tile::across; ++j)
      right[j] = load_pack<pack>(b + place.other(j) * Tile::step + d);
    MOXIE_UNROLL
    for (int s = 0; s < pack; ++s) {
      MOXIE_UNROLL
      for (int i = 0; i < Tile::down; ++i) {
        MOXIE_UNROLL
        for (int j = 0; j < Tile::across; ++j) score[i][j] += left[i].value[s] * right[j].value[s];
      }
    }
  }
}

/// weights[own(i)][other(j)] = score[i][j], for the lanes of the same group alone.
template <class Tile, class T>
MOXIE_DEVICE void store_weights(const AttentionPlace<Tile>& place,
                                const typename Tile::Scores& score, T* weights) {
  __syncwarp(whole_warp);  // what was there has been read
  MOXIE_UNROLL
  for (int i = 0; i < Tile::down; ++i) {
    MOXIE_UNROLL
    for (int j = 0; j < Tile::across; ++j)
      weights[place.own(i) * Tile::score_step + place.other(j)] = score[i][j];
  }
  __syncwarp(whole_warp);
}

/// result[i][...] += the sum over `count` rows j of b, rounded up to packs, of weights[own(i)][j] *
/// row j, in ascending order; the lane's columns are those of `place.column`.
template <class Tile, class T>
MOXIE_DEVICE void add_weighted_rows(const AttentionPlace<Tile>& place, const T* weights, const T* b,
                                    int count, typename Tile::Results& result) {
  constexpr int pack = Tile::pack;
  for (int j = 0; j < count; j += pack) {
    Pack<T, pack> weight[static_cast<std::size_t>(Tile::down)];
    MOXIE_UNROLL
    for (int i = 0; i < Tile::down; ++i)
      weight[i] = load_pack<pack>(weights + place.own(i) * Tile::score_step + j);
    MOXIE_UNROLL
    for (int s = 0; s < pack; ++s) {
      MOXIE_UNROLL
      for (int part = 0; part < Tile::parts; ++part) {
        const Pack<T, pack> row = load_pack<pack>(b + (j + s) * Tile::step + place.column(part));
        MOXIE_UNROLL
        for (int i = 0; i < Tile::down; ++i) {
          MOXIE_UNROLL
          for (int e = 0; e < pack; ++e)
            result[i][part * pack + e] += weight[i].value[s] * row.value[e];
        }
      }
    }
  }
}

/// f(i, c, x) for each element that this thread has of its block's results: of row first + own(i)
/// and column c, where they exist.
template <class Tile, class F>
MOXIE_DEVICE void each_result(const AttentionPlace<Tile>& place, Index rows, Index cols,
                              const typename Tile::Results& result, const F& f) {
  MOXIE_UNROLL
  for (int i = 0; i < Tile::down; ++i) {
    if (place.first + place.own(i) >= rows) continue;
    MOXIE_UNROLL
    for (int part = 0; part < Tile::parts; ++part) {
      MOXIE_UNROLL
      for (int e = 0; e < Tile::pack; ++e) {
        const int c = place.column(part) + e;
        if (c < cols) f(i, c, result[i][part * Tile::pack + e]);
      }
    }
  }
}

}  // namespace moxie::detail::device

#endif
