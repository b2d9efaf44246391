#pragma once

#include "moxie/backend/cpu/panel.hpp"
#include "moxie/backend/cpu/row_vectors.hpp"
#include "moxie/ops/attention.hpp"

/// Attention, an image and head at a time, with its scores in cache. Instead of the weights p it
/// keeps the maximum and the inverse sum of each row of scores, and makes p again in the backward:
/// p is larger than all else of a layer, and exp costs less than fetching it.
namespace moxie {

template <std::floating_point T>
class CpuBackend;

namespace detail {

/// c = alpha a b + beta c, small: b and c stay in the first-level cache. a may be read transposed,
/// and its rows may have factors. b is padded with zeros to whole vectors. A trampoline of its own,
/// so that its four widths of tile are compiled once.
template <class T>
struct SmallProduct {
  Factor<T> a;
  Index inner;
  const T* b;
  Index b_step;
  MatrixView<T> c;
  T alpha, beta;

  template <class L>
  MOXIE_INLINE void operator()(L) const {
    constexpr Index width = lanes<T, L>;
    const Panel<T, L> panel{a, nullptr, b,     b_step, c,    nullptr, 0,
                            0, 0,       inner, alpha,  beta, true,    true};
    const Index padded = divide_up(c.cols, width) * width;
    for (Index j = 0; j < c.cols;) j += width * panel.next(j, (padded - j) / width);
  }
};

/// Rows of a small product's right factor, as they lie if they are whole vectors, else copied and
/// padded.
template <class T, class L>
MOXIE_INLINE const T* whole_rows(MatrixView<const T> m, T* memory, Index& step) {
  constexpr Index width = lanes<T, L>;
  step = m.stride;
  if (m.cols % width == 0) return m.data;
  step = divide_up(m.cols, width) * width;
  pack_rows<T, L>({m.data, m.stride, Op::none, nullptr, nullptr}, 0, m.rows, 0, m.cols, step,
                  memory);
  return memory;
}

/// How a worker's memory is laid out for one image and head, in elements, for the widest vectors.
template <class T>
struct AttentionLayout {
  static constexpr Index vector = 64 / static_cast<Index>(sizeof(T));
  Index keys, width, rows;  // keys and head width up to whole vectors; rows of scores at a time

  explicit AttentionLayout(const AttentionShape& s)
      : keys(divide_up(larger(s.keys, 1), vector) * vector),
        width(divide_up(s.width, vector) * vector) {
    // A multiple of every tile's height; the scores and their gradients then fill half of a
    // first-level cache.
    constexpr Index heights = 24;
    constexpr Index bytes = 16384;
    const Index fit = bytes / static_cast<Index>(sizeof(T)) / keys / heights * heights;
    rows = smaller(larger(fit, heights), divide_up(larger(s.queries, 1), heights) * heights);
  }
  Index transposed() const { return keys * width; }
  Index scores() const { return rows * keys; }
  Index forward() const { return 2 * transposed() + scores(); }
  Index backward(Index queries) const {
    return 3 * transposed() + 2 * scores() + 2 * larger(queries, 1) * width;
  }
};

template <class T>
struct AttentionTask {
  const AttentionShape& shape;
  BatchView<const T> q, k, v;
  BatchView<T> o;
  MatrixView<T> kept;
  T* memory;
  Index first, last;  // of images * heads

  template <class L>
  MOXIE_INLINE void operator()(L level) const {
    const Index width = shape.width;
    const AttentionLayout<T> layout(shape);
    T* const k_transposed = memory;
    T* const v_memory = k_transposed + layout.transposed();
    T* const scores = v_memory + layout.transposed();
    for (Index i = first; i < last; ++i) {
      const MatrixView<const T> qs = q(i / shape.heads, i % shape.heads);
      const MatrixView<const T> ks = k(i / shape.heads, i % shape.heads);
      const MatrixView<const T> vs = v(i / shape.heads, i % shape.heads);
      const MatrixView<T> os = o(i / shape.heads, i % shape.heads);
      pack_transposed<T, L>({ks.data, ks.stride, Op::none, nullptr, nullptr}, 0, width, 0,
                            shape.keys, layout.keys, k_transposed);
      Index v_step = 0;
      const T* const v_rows = whole_rows<T, L>(vs, v_memory, v_step);
      T* const peaks = kept.row(0) + i * shape.queries;
      T* const inverses = kept.row(1) + i * shape.queries;
      for (Index row = 0; row < shape.queries; row += layout.rows) {
        const Index rows = smaller(layout.rows, shape.queries - row);
        enter(level, SmallProduct<T>{{qs.row(row), qs.stride, Op::none, nullptr, nullptr},
                                     width,
                                     k_transposed,
                                     layout.keys,
                                     {scores, rows, shape.keys, layout.keys},
                                     static_cast<T>(shape.scale),
                                     T(0)});
        for (Index r = 0; r < rows; ++r) {
          T* const s = scores + r * layout.keys;
          const T peak = row_maximum<T, L>(s, shape.keys);
          const T sum = row_exp<T, L>(s, shape.keys, peak, T(1), nullptr);
          peaks[row + r] = peak;
          inverses[row + r] = T(1) / sum;
        }
        enter(level, SmallProduct<T>{{scores, layout.keys, Op::none, nullptr, inverses + row},
                                     shape.keys,
                                     v_rows,
                                     v_step,
                                     os.middle(row, rows),
                                     T(1),
                                     T(0)});
      }
    }
  }
};

template <class T>
struct AttentionBackwardTask {
  const AttentionShape& shape;
  BatchView<const T> q, k, v, d_o;
  BatchView<T> dq, dk, dv;
  MatrixView<const T> kept;
  T* memory;
  Index first, last;

  template <class L>
  MOXIE_INLINE void operator()(L level) const {
    const Index width = shape.width;
    const Index keys = shape.keys;
    const AttentionLayout<T> layout(shape);
    const auto scale = static_cast<T>(shape.scale);
    T* const k_transposed = memory;
    T* const v_transposed = k_transposed + layout.transposed();
    T* const k_memory = v_transposed + layout.transposed();
    T* const weights = k_memory + layout.transposed();
    T* const d_weights = weights + layout.scores();
    T* const q_memory = d_weights + layout.scores();
    T* const d_o_memory = q_memory + shape.queries * layout.width;
    for (Index i = first; i < last; ++i) {
      const Index image = i / shape.heads;
      const Index head = i % shape.heads;
      const MatrixView<const T> qs = q(image, head);
      const MatrixView<const T> ks = k(image, head);
      const MatrixView<const T> vs = v(image, head);
      const MatrixView<const T> d_os = d_o(image, head);
      pack_transposed<T, L>({ks.data, ks.stride, Op::none, nullptr, nullptr}, 0, width, 0, keys,
                            layout.keys, k_transposed);
      pack_transposed<T, L>({vs.data, vs.stride, Op::none, nullptr, nullptr}, 0, width, 0, keys,
                            layout.keys, v_transposed);
      Index k_step = 0;
      Index q_step = 0;
      Index d_o_step = 0;
      const T* const k_rows = whole_rows<T, L>(ks, k_memory, k_step);
      const T* const q_rows = whole_rows<T, L>(qs, q_memory, q_step);
      const T* const d_o_rows = whole_rows<T, L>(d_os, d_o_memory, d_o_step);
      const T* const peaks = kept.row(0) + i * shape.queries;
      const T* const inverses = kept.row(1) + i * shape.queries;
      for (Index row = 0; row < shape.queries; row += layout.rows) {
        const Index rows = smaller(layout.rows, shape.queries - row);
        const T keep = row > 0 ? T(1) : T(0);
        enter(level, SmallProduct<T>{{qs.row(row), qs.stride, Op::none, nullptr, nullptr},
                                     width,
                                     k_transposed,
                                     layout.keys,
                                     {weights, rows, keys, layout.keys},
                                     scale,
                                     T(0)});
        enter(level, SmallProduct<T>{{d_os.row(row), d_os.stride, Op::none, nullptr, nullptr},
                                     width,
                                     v_transposed,
                                     layout.keys,
                                     {d_weights, rows, keys, layout.keys},
                                     T(1),
                                     T(0)});
        for (Index r = 0; r < rows; ++r) {
          T* const p = weights + r * layout.keys;
          T* const d = d_weights + r * layout.keys;
          const T inner = row_exp<T, L>(p, keys, peaks[row + r], inverses[row + r], d);
          row_softmax_backward<T, L>(d, p, keys, inner);
        }
        enter(level, SmallProduct<T>{{d_weights, layout.keys, Op::none, nullptr, nullptr},
                                     keys,
                                     k_rows,
                                     k_step,
                                     dq(image, head).middle(row, rows),
                                     scale,
                                     T(0)});
        enter(level, SmallProduct<T>{{weights, layout.keys, Op::transpose, nullptr, nullptr},
                                     rows,
                                     d_o_rows + row * d_o_step,
                                     d_o_step,
                                     dv(image, head),
                                     T(1),
                                     keep});
        enter(level, SmallProduct<T>{{d_weights, layout.keys, Op::transpose, nullptr, nullptr},
                                     rows,
                                     q_rows + row * q_step,
                                     q_step,
                                     dk(image, head),
                                     scale,
                                     keep});
      }
    }
  }
};

/// The twins, which `backend` runs. `kept` is [2, images * heads * queries], maxima and inverse
/// sums of the rows; `working` has a row for each worker.
template <class T>
struct CpuAttention {
  const CpuBackend<T>& backend;
  const AttentionShape& shape;

  template <class B>
  void bind(Arena<B>& arena, AttentionMemory<B>& memory) const {
    const AttentionLayout<T> layout(shape);
    memory.kept = arena.template saved<T>(2, shape.images * shape.heads * shape.queries);
    memory.working = arena.template scratch<T>(
        backend.workers(), arena.wants_input() ? layout.backward(shape.queries) : layout.forward());
  }
  void forward(MatrixView<const T> q, MatrixView<const T> k, MatrixView<const T> v,
               MatrixView<T> kept, MatrixView<T> working, MatrixView<T> o) const {
    each_head(working, [&](T* memory, Index first, Index last) {
      return AttentionTask<T>{shape,
                              heads_of(q, shape),
                              heads_of(k, shape),
                              heads_of(v, shape),
                              heads_of(o, shape),
                              kept,
                              memory,
                              first,
                              last};
    });
  }
  void backward(MatrixView<const T> q, MatrixView<const T> k, MatrixView<const T> v,
                MatrixView<const T> d_o, MatrixView<const T> kept, MatrixView<T> working,
                MatrixView<T> dq, MatrixView<T> dk, MatrixView<T> dv) const {
    each_head(working, [&](T* memory, Index first, Index last) {
      return AttentionBackwardTask<T>{shape,
                                      heads_of(q, shape),
                                      heads_of(k, shape),
                                      heads_of(v, shape),
                                      heads_of(d_o, shape),
                                      heads_of(dq, shape),
                                      heads_of(dk, shape),
                                      heads_of(dv, shape),
                                      kept,
                                      memory,
                                      first,
                                      last};
    });
  }

 private:
  template <class Make>
  void each_head(MatrixView<T> working, const Make& make) const {
    constexpr Index scores_of_a_task = 8192;
    const Index n = shape.images * shape.heads;
    const Index grain = divide_up(scores_of_a_task, larger(shape.queries * shape.keys, 1));
    const Index step = task_size(n, backend.workers(), grain);
    backend.parallel(divide_up(n, step), [&](Index task, int worker) {
      backend.at_level(make(working.row(worker), task * step, smaller((task + 1) * step, n)));
    });
  }
};

}  // namespace detail
}  // namespace moxie
