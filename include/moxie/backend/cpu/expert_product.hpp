#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "moxie/backend/cpu/expert_tasks.hpp"
#include "moxie/backend/cpu/narrow_weights.hpp"
#include "moxie/backend/cpu/options.hpp"
#include "moxie/backend/cpu/weight_copies.hpp"
#include "moxie/ops/expert_product.hpp"

namespace moxie {

template <std::floating_point T>
class CpuBackend;

namespace detail {

/// An end of a product, applied to a tile in cache.
template <class End>
struct EndOfTile {
  const End& end;
  Index e, row, rows, col, cols;

  template <class L>
  MOXIE_INLINE void operator()(L) const {
    const End own = end;
    for (Index r = row; r < row + rows; ++r) own.part(e, r, col, cols);
  }
  static void call(const void* end, Level level, Index e, Index row, Index rows, Index col, Index cols) {
    at_level(level, EndOfTile{*static_cast<const End*>(end), e, row, rows, col, cols});
  }
};
template <class End>
TileEnd tile_end(const End& end) {
  if constexpr (std::same_as<End, NoEnd>) {
    return {};
  } else if constexpr (requires { end.other(); }) {
    const auto other = end.other();
    return {&EndOfTile<End>::call, &end, reinterpret_cast<const std::byte*>(other.data),
            other.stride * static_cast<Index>(sizeof(*other.data))};
  } else {
    return {&EndOfTile<End>::call, &end};
  }
}

/// Scratch of one worker in the products of experts, bytes: two packed panels of weights [D, H] or [H, O]; with gradients of
/// weights also a packed block of activations and packed panels of gradients (ExpertWeightsTask).
/// `rows`: of all experts; `widest`: the larger of D, H and O.
template <class T>
constexpr Index expert_scratch_bytes(Index rows, Index widest, bool weights) {
  const Index panels = 2 * widest * panel_bytes;
  const Index size = static_cast<Index>(sizeof(T));
  return divide_up(weights ? larger(panels, ExpertWeightsTask<T>::size(rows, widest, widest) * size) : panels, 256) *
         256;
}

/// The products of experts on the CPU: a twin of ExpertProduct and ExpertWeightsProduct.
template <class T>
class CpuExpertProduct {
 public:
  explicit CpuExpertProduct(const CpuBackend<T>& backend) : b_(backend) {}

  template <class B>
  void bind(Arena<B>& arena, const Parameters<B>& p, const ExpertWeights<B>& one, const ExpertWeights<B>& two,
            Index rows, ExpertMemory<B>& memory) const {
    Index widest = 1;
    for (const ExpertWeights<B>* w : {&one, &two}) {
      const std::vector<Index>& shape = p.entry(w->id).shape;
      widest = larger(widest, larger(shape[1], shape[2]));
    }
    const NarrowWeights* const narrow = b_.copies().narrow();
    memory.keep = !arena.wants_weights() && b_.copies().kept();
    memory.narrow = !arena.wants_input() && narrow != nullptr;
    const Index bytes = memory.narrow ? narrow->scratch_bytes(widest)
                                      : expert_scratch_bytes<T>(rows, widest, arena.wants_weights());
    memory.workers = b_.workers();
    memory.working = arena.scratch_bytes(static_cast<std::size_t>(bytes * b_.workers()));
    if (!memory.keep) return;
    for (const ExpertWeights<B>* w : {&one, &two}) {
      const std::vector<Index>& shape = p.entry(w->id).shape;
      const auto reserve = [&](DerivedCopy& copy, Index inner, Index cols) {
        copy.reserve(static_cast<std::size_t>(shape[0] * packed_size<T>(inner, cols)) * sizeof(T));
      };
      if (memory.narrow) {
        w->copies.all->narrow.reserve(narrow->bytes(shape[0], shape[1], shape[2]));
        continue;
      }
      reserve(w->copies.all->plain, shape[1], shape[2]);
      if (arena.wants_input()) reserve(w->copies.all->transposed, shape[2], shape[1]);
    }
  }

  /// The packed copy of op(w) for the version of the parameters, or null.
  template <class B>
  const T* packed(const Parameters<B>& p, const ExpertWeights<B>& w, Op op, bool renew, Index experts) const {
    CpuWeightCopies::All& all = *w.copies.all;
    DerivedCopy& copy = op == Op::none ? all.plain : all.transposed;
    return static_cast<const T*>(copy.current(key(p), renew, false, [&](void* to) {
      pack(w.value(p), op, experts, static_cast<T*>(to));
    }));
  }
  /// The narrow copy of w. Nothing else has its bits, so passes wait for it.
  template <class B>
  const void* narrowed(const Parameters<B>& p, const ExpertWeights<B>& w, Index experts) const {
    return w.copies.all->narrow.current(
        key(p), true, true, [&](void* to) { b_.copies().narrow()->pack(b_.level(), w.value(p), experts, to); });
  }

  /// `w` stacks the experts' matrices along its rows: [E*K, N] for Op::none, [E*N, K] for Op::transpose.
  void product(Factor<T> x, VectorView<const std::int32_t> offset, Index inner, MatrixView<const T> w, Op op,
               const T* packed, VectorView<std::byte> working, MatrixView<T> out, TileEnd end) const;
  /// `height`: rows of dw of one expert.
  void weights(Factor<T> x, Factor<T> dy, VectorView<const std::int32_t> offset, Index height,
               VectorView<std::byte> working, MatrixView<T> dw) const;

 private:
  void pack(MatrixView<const T> w, Op op, Index experts, T* out) const;
  template <class B>
  std::uint64_t key(const Parameters<B>& p) const {
    return p.version() * 4 + static_cast<std::uint64_t>(b_.level()) + 1;
  }
  static T* of_worker(VectorView<std::byte> working, int worker, int workers) {
    const Index each = working.size / workers / 256 * 256;
    return reinterpret_cast<T*>(working.data + worker * each);
  }

  const CpuBackend<T>& b_;
};

template <class T>
void CpuExpertProduct<T>::product(Factor<T> x, VectorView<const std::int32_t> offset, Index inner,
                                  MatrixView<const T> w, Op op, const T* packed,
                                  VectorView<std::byte> working, MatrixView<T> out, TileEnd end) const {
  const Index experts = offset.size - 1;
  if (experts < 1) return;
  const Index count = offset[experts] - offset[0];
  if (w.cols != (op == Op::none ? out.cols : inner) ||
      w.rows != experts * (op == Op::none ? inner : out.cols) || offset[experts] > out.rows) {
    throw_shape("moxie::CpuBackend: product of experts: rows are ", inner, " wide, ", offset[experts],
                " of them, out is [", out.rows, " x ", out.cols, "], and w is [", w.rows, " x ", w.cols,
                "] for ", experts, " experts, op ", op == Op::none ? "none" : "transpose");
  }
  if (count < 1 || out.cols < 1) return;
  const Index panel = panel_columns<T>(b_.level());
  const Index panels = divide_up(out.cols, panel);
  const Index work = divide_up(count, experts) * larger(inner, 1) * panel;
  const Index group =
      b_.workers() == 1 ? panels : smaller(divide_up(4 * worth_a_task, work), panels);
  const Index of_expert = divide_up(panels, group);
  b_.parallel(experts * of_expert, [&](Index task, int worker) {
    const Index col = task % of_expert * group * panel;
    b_.at_level(ExpertTask<T>{x, w, op, packed, of_worker(working, worker, b_.workers()), out, offset.data,
                              inner, end, b_.level(), experts * packed_size<T>(inner, out.cols),
                              task / of_expert, col,
                              smaller(col + group * panel, out.cols)});
  });
}

template <class T>
void CpuExpertProduct<T>::weights(Factor<T> x, Factor<T> dy, VectorView<const std::int32_t> offset,
                                  Index height, VectorView<std::byte> working, MatrixView<T> dw) const {
  const Index experts = offset.size - 1;
  if (experts < 1 || offset[experts] == offset[0] || height < 1 || dw.cols < 1) return;
  using Task = ExpertWeightsTask<T>;
  const Index panel = panel_columns<T>(b_.level());
  const Index blocks = divide_up(height, Task::block);
  // Columns are cut only where there would be too few tasks: each packs its block of x anew.
  const Index wanted = b_.workers() == 1 ? 1 : divide_up(4 * b_.workers(), experts * blocks);
  const Index step = divide_up(divide_up(dw.cols, smaller(wanted, divide_up(dw.cols, 4 * panel))), panel) * panel;
  const Index of_block = divide_up(dw.cols, step);
  b_.parallel(experts * blocks * of_block, [&](Index task, int worker) {
    const Index e = task / (blocks * of_block);
    const Index row = task / of_block % blocks * Task::block;
    const Index col = task % of_block * step;
    b_.at_level(Task{x, dy, dw, height, offset.data, of_worker(working, worker, b_.workers()), e, row,
                     smaller(row + Task::block, height), col, smaller(col + step, dw.cols)});
  });
}

template <class T>
void CpuExpertProduct<T>::pack(MatrixView<const T> w, Op op, Index experts, T* out) const {
  const Index rows = w.rows / experts;
  const Index inner = op == Op::none ? rows : w.cols;
  const Index cols = op == Op::none ? w.cols : rows;
  b_.parallel(experts, [&](Index e, int) {
    b_.at_level(PackWeights<T>{{w.data + e * rows * w.stride, w.stride, op, nullptr, nullptr}, inner, cols,
                               out + e * packed_size<T>(inner, cols)});
  });
}

}  // namespace detail
}  // namespace moxie
