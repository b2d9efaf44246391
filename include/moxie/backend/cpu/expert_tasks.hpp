#pragma once

#include <cstddef>
#include <cstdint>

#include "moxie/backend/cpu/tile.hpp"
#include "moxie/backend/cpu/weight_panels.hpp"

/// The products of experts as tasks: an expert's rows, or some of them, by some of its panels. A task owns whole tiles of the result, each of
/// which is one sum over the whole inner dimension, so no bit depends on who runs it or on the rows beside a row.
namespace moxie::detail {

/// What is done with a finished tile while it lies in cache: rows [row, row + rows) of expert e, columns [col, col + cols).
struct TileEnd {
  void (*call)(const void* end, Level level, Index e, Index row, Index rows, Index col,
               Index cols) = nullptr;
  const void* end = nullptr;
  // What else it touches, of the result's shape: fetched while the tile is computed.
  const std::byte* other = nullptr;
  Index other_stride = 0;  // bytes
};

/// A length, whole tiles of most levels, in so many parts of about one length that none is longer than `most`, nearly.
constexpr Index even_part(Index length, Index most) {
  return divide_up(divide_up(length, divide_up(length, most)), 8) * 8;
}

/// One tile of a result whose edges need not be whole tiles: surplus rows are computed and go to a spare row, surplus
/// columns to a copy.
template <class T, class L, int N>
struct EdgeTile {
  using Kernel = Tile<T, L, N>;
  static constexpr Index height = Kernel::rows;
  static constexpr Index width = Kernel::cols;

  Array<const T*, height> from;
  Array<T*, height> to;
  Array<T, height> factor;
  Array<T, width> spare;
  Array<T, height * width> edge;

  /// c: the tile's first element; rows, cols: those of it that exist.
  MOXIE_INLINE void run(Kernel& tile, T* c, Index stride, Index rows, Index cols) {
    const bool whole = cols >= width;
    for (Index r = 0; r < rows; ++r) to[r] = whole ? c + r * stride : edge + r * width;
    for (Index r = rows; r < height; ++r) {
      from[r] = from[rows - 1];
      factor[r] = factor[rows - 1];
      to[r] = spare;
    }
    if (tile.beta != T(0)) {  // what is computed for nobody is read as well
      for (Index k = 0; k < width; ++k) spare[k] = T(0);
      if (!whole) {
        for (Index k = 0; k < rows * width; ++k) edge[k] = T(0);
        copy_block<T, L>(c, stride, edge, width, rows, cols);
      }
    }
    enter(L{}, tile);
    if (!whole) copy_block<T, L>(edge, width, c, stride, rows, cols);
  }
};

/// out[r, :] = x(r, :) op(w_e) for the rows r of each expert e.
template <class T>
struct ExpertFactors {
  Factor<T> x;  // op none
  Index inner;
  MatrixView<const T> w;
  Op op;
  const T* packed;  // weights of all experts; null: not packed
  Index experts;
  MatrixView<T> out;
  TileEnd end;

  /// The packed weights of an expert; null: none, or no such expert.
  const T* packed_of(Index e) const {
    return packed == nullptr || e >= experts ? nullptr
                                             : packed + e * packed_size<T>(inner, out.cols);
  }
  /// Of one expert, not packed.
  Factor<T> weights(Index e) const {
    return {w.data + e * (op == Op::none ? inner : out.cols) * w.stride, w.stride, op, nullptr,
            nullptr};
  }
};

/// Some rows of an expert by some panels, from packed weights or from weights that the task packs itself.
template <class T>
struct ExpertTask {
  const ExpertFactors<T>& of;
  T* scratch;      // room for two panels, where not packed
  const T* after;  // packed weights that are likely to be read after the task's; may be null
  Level level;
  Index e, begin_row, end_row, first_col, last_col;

  template <class L>
  MOXIE_INLINE void operator()(L) const {
    if (begin_row == end_row) return;
    constexpr Index vector = lanes<T, L>;
    constexpr int most = panel_vectors<L>;
    // A stretch of rows at a time: the addresses of its pages, and half of it, stay in the second level's caches.
    const Index all = end_row - begin_row;
    const Index fit =
        larger(stretch_bytes / (larger(of.inner, 1) * static_cast<Index>(sizeof(T))), 24) *
        (of.packed != nullptr ? 1 : 4);
    const Index stretch = even_part(all, fit);
    Scratch memory{scratch, scratch + of.inner * most * vector, 0};
    for (Index row = begin_row; row < end_row; row += stretch) {
      const Index rows = smaller(stretch, end_row - row);
      for (Index j = first_col; j < last_col; j += most * vector) {
        const Index left = divide_up(of.out.cols - j, vector);
        if (most >= 3 && left >= 3) {
          run<L, 3 <= most ? 3 : 1>(memory, row, rows, j);
        } else if (most >= 2 && left >= 2) {
          run<L, 2 <= most ? 2 : 1>(memory, row, rows, j);
        } else {
          run<L, 1>(memory, row, rows, j);
        }
      }
    }
  }

 private:
  static constexpr Index stretch_bytes = 512 * 1024;

  /// Packed panels of a task that packs: the one in use, and the next, of which `ready` steps are there.
  struct Scratch {
    T* here;
    T* there;
    Index ready;
  };

  template <class L, int N>
  MOXIE_INLINE void run(Scratch& memory, Index first_row, Index rows, Index j) const {
    using Edge = EdgeTile<T, L, N>;
    constexpr Index height = Edge::height;
    constexpr Index width = Edge::width;
    constexpr Index line = 64 / static_cast<Index>(sizeof(T));
    constexpr Index lines = divide_up(width, line);
    const Index inner = of.inner;
    const Index cols = of.out.cols;
    const Factor<T> w = of.weights(e);
    const T* const packed = of.packed_of(e);
    const Op op = w.op;
    const TileEnd& end = of.end;
    const T* const weights = w.data;
    // A copy pays from the third tile on: the first two would read it as often as it is written.
    const bool in_place =
        packed == nullptr && op == Op::none && rows <= 2 * height && cols - j >= width;
    const T* panel = packed != nullptr ? packed + j * inner : in_place ? weights + j : memory.here;
    if (packed == nullptr && !in_place) {
      if (op == Op::none && cols - j >= width) {
        copy_panel<T, L, N>(weights + memory.ready * w.stride + j, w.stride, inner - memory.ready,
                            memory.here + memory.ready * width);
      } else {
        pack_panel<T, L>(w, 0, inner, j, cols, width, memory.here);
      }
      memory.ready = 0;
    }
    // What comes next is fetched while this panel is used, a share of it during each tile.
    const bool last_panel = j + width >= last_col;
    const bool copies = packed == nullptr && op == Op::none && !in_place && !last_panel &&
                        last_col - j >= 2 * width && N == panel_vectors<L>;
    const T* next = nullptr;
    Index next_step = width;
    if (packed != nullptr) {
      if (!last_panel) {
        next = panel + width * inner;
      } else {
        next = first_row + rows < end_row ? packed + first_col * inner : after;
      }
    } else if (!last_panel) {
      next = op == Op::none ? weights + j + width : weights + (j + width) * w.stride;
      if (op == Op::none) next_step = w.stride;
    }
    const Index share = divide_up(divide_up(inner, divide_up(rows, height)), line) * line;
    Index fetched = 0;

    Edge edge;
    typename Edge::Kernel tile{
        inner,       edge.from, 1,    panel, in_place ? w.stride : width, nullptr, 0, edge.to,
        edge.factor, T(0),      true, true};
    tile.next_step = next_step;
    for (Index i = 0; i < rows; i += height) {
      const Index row = first_row + i;
      const Index count = smaller(height, rows - i);
      const bool fetches = next != nullptr && fetched < inner;
      tile.next = fetches ? next + fetched * next_step : nullptr;
      tile.next_rows = fetches ? divide_up(8 * share, larger(inner, 1)) : 0;
      for (Index r = 0; r < count; ++r) {
        edge.from[r] = of.x.row(row + r);
        edge.factor[r] = of.x.factor(row + r);
      }
      for (Index r = height; r < smaller(2 * height, rows - i); ++r) {
        const T* const soon = of.x.row(row + r);
        __builtin_prefetch(soon);
        __builtin_prefetch(soon + line);
      }
      for (Index r = 0; end.other != nullptr && r < count; ++r) {
        const std::byte* const first =
            end.other + (row + r) * end.other_stride + j * static_cast<Index>(sizeof(T));
        for (Index k = 0; k < lines; ++k) __builtin_prefetch(first + 64 * k, 1);
      }
      edge.run(tile, of.out.row(row) + j, of.out.stride, count, cols - j);
      if (end.call != nullptr) end.call(end.end, level, e, row, count, j, smaller(width, cols - j));
      // Rows of weights may lie so far apart that they displace each other: those just fetched are copied at once.
      if (copies && fetches) {
        const Index steps = smaller(share, inner - fetched);
        copy_panel<T, L, N>(next + fetched * next_step, w.stride, steps,
                            memory.there + fetched * width);
        memory.ready = fetched + steps;
      }
      fetched += share;
    }
    if (copies) {
      T* const free = memory.here;
      memory.here = memory.there;
      memory.there = free;
    }
  }
};

/// dw_e += x^T dy over the rows of an expert, for some rows and columns of dw_e: sums over chunks of the expert's rows, added
/// chunk by chunk.
template <class T>
struct ExpertWeightsTask {
  static constexpr Index chunk = 512;  // rows of a sum: part of the result
  static constexpr Index block =
      1024 / static_cast<Index>(sizeof(T));  // rows of dw that are packed at a time
  static constexpr Index gap =
      64 / static_cast<Index>(sizeof(T));  // keeps packed rows off each other's cache lines
  static constexpr Index group_bytes = 512 * 1024;  // of packed panels

  Factor<T> x, dy;  // rows of both may be picked by an index, those of dy scaled
  MatrixView<T> dw;
  Index rows_of_dw;  // of an expert
  const std::int32_t* offset;
  T* scratch;  // of size(...)
  Index e, first_row, last_row, first_col, last_col;

  /// Elements of scratch for experts of up to `rows` rows: the packed block of x, and the packed panels of dy.
  static constexpr Index size(Index rows, Index height, Index cols) {
    constexpr Index element = static_cast<Index>(sizeof(T));
    const Index count = smaller(chunk, rows);
    const Index all = packed_size<T>(count, cols);
    const Index some = larger(count * panel_bytes, group_bytes) / element;
    return left_size(count, height) + smaller(all, some);
  }

  template <class L>
  MOXIE_INLINE void operator()(L) const {
    constexpr Index vector = lanes<T, L>;
    constexpr int most = panel_vectors<L>;
    constexpr Index panel = most * vector;
    for (Index start = offset[e]; start < offset[e + 1]; start += chunk) {
      const Index count = smaller(chunk, offset[e + 1] - start);
      const Index step = left_step(count);
      T* const right = scratch + left_size(count, last_row - first_row);
      const Index group =
          larger(1, group_bytes / (count * panel * static_cast<Index>(sizeof(T)))) * panel;
      pack_left<L>(start, count, step);
      for (Index col = first_col; col < last_col; col += group) {
        const Index end = smaller(col + group, last_col);
        for (Index j = col; j < end; j += panel) {
          const Index width = smaller(panel, divide_up(dw.cols - j, vector) * vector);
          pack_rows<T, L>(dy, start, count, j, smaller(width, dw.cols - j), width,
                          right + (j - col) * count);
        }
        constexpr Index height = Tile<T, L, most>::rows;
        for (Index i = first_row; i < last_row; i += height) {
          const Index rows = smaller(height, last_row - i);
          for (Index j = col; j < end; j += panel) {
            const Index left = divide_up(dw.cols - j, vector);
            const T* const b = right + (j - col) * count;
            if (most >= 3 && left >= 3) {
              run<L, 3 <= most ? 3 : 1>(i, rows, j, count, step, b);
            } else if (most >= 2 && left >= 2) {
              run<L, 2 <= most ? 2 : 1>(i, rows, j, count, step, b);
            } else {
              run<L, 1>(i, rows, j, count, step, b);
            }
          }
        }
      }
    }
  }

 private:
  static constexpr Index left_step(Index count) { return divide_up(count, gap) * gap + gap; }
  static constexpr Index left_size(Index count, Index height) {
    return smaller(height, block) * left_step(count);
  }
  /// scratch[i * step + r] = x(start + r, first_row + i)
  template <class L>
  MOXIE_INLINE void pack_left(Index start, Index count, Index step) const {
    const Index padded = divide_up(count, lanes<T, L>) * lanes<T, L>;
    Factor<T> rows = x;
    rows.op = Op::transpose;
    pack_transposed<T, L>(rows, first_row, last_row - first_row, start, count, padded, step,
                          scratch);
  }
  /// A tile has as many rows as the widest; narrower panels compute them in turns.
  template <class L, int N>
  MOXIE_INLINE void run(Index i, Index rows, Index j, Index count, Index step, const T* b) const {
    using Edge = EdgeTile<T, L, N>;
    Edge edge;
    typename Edge::Kernel tile{count, edge.from, 1,           b,    Edge::width, nullptr,
                               0,     edge.to,   edge.factor, T(1), true,        true};
    // Where a tile is short, its own elements of dw would not arrive in time: those of a later panel are fetched.
    tile.c_ahead = count >= 128 ? 0 : count >= 32 ? Edge::width : 3 * Edge::width;
    for (Index k = 0; k < rows; k += Edge::height) {
      const Index n = smaller(Edge::height, rows - k);
      for (Index r = 0; r < n; ++r) {
        edge.from[r] = scratch + (i - first_row + k + r) * step;
        edge.factor[r] = T(1);
      }
      edge.run(tile, dw.row(e * rows_of_dw + i + k) + j, dw.stride, n, dw.cols - j);
    }
  }
};

}  // namespace moxie::detail
