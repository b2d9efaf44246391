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
  static void call(const void* end, Level level, Index e, Index row, Index rows, Index col,
                   Index cols) {
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
  return divide_up(weights ? larger(panels, ExpertWeightsTask<T>::size(rows, widest, widest) * size)
                           : panels,
                   256) *
         256;
}

/// Memory of the products of experts.
struct ExpertRoom {
  VectorView<std::byte> working;  // cut by worker
  VectorView<std::byte> packed;   // for the weights of one or two products, or empty
};

/// Rows an expert, on average, from which a tape for training has room for the packed weights of a layer. A pass packs them
/// from half as many on; fewer rows pack panels while they use them.
inline constexpr Index rows_worth_packing = 512;

/// Experts as tasks, `worth` of something each, of which a row has `of_row`. Some tasks have nothing to do, so that each can be
/// found without a list.
struct ExpertCut {
  struct Part {
    Index e, part;
  };
  VectorView<const std::int32_t> offset;
  Index of_row, worth;

  Index tasks() const { return first(offset.size - 1); }
  /// Parts of expert e: as many as its tasks, or fewer.
  Index parts(Index e) const { return divide_up((offset[e + 1] - offset[e]) * of_row, worth); }
  Part part_of(Index task) const {
    Index e = 0;
    for (Index end = offset.size - 1; end - e > 1;) {
      const Index middle = (e + end) / 2;
      (first(middle) <= task ? e : end) = middle;
    }
    return {e, task - first(e)};
  }

 private:
  Index first(Index e) const { return (offset[e] - offset[0]) * of_row / worth + e; }
};

/// Bytes of packed weights [E, rows, cols], as they are or transposed.
template <class T>
constexpr Index expert_packed_bytes(Index experts, Index rows, Index cols) {
  return experts * larger(packed_size<T>(rows, cols), packed_size<T>(cols, rows)) *
         static_cast<Index>(sizeof(T));
}

/// The products of experts on the CPU: a twin of ExpertProduct, ExpertPair and ExpertWeightsProduct.
template <class T>
class CpuExpertProduct {
 public:
  explicit CpuExpertProduct(const CpuBackend<T>& backend) : b_(backend) {}

  template <class B>
  void bind(Arena<B>& arena, const Parameters<B>& p, const ExpertWeights<B>& one,
            const ExpertWeights<B>& two, Index rows, ExpertMemory<B>& memory) const {
    Index widest = 1;
    for (const ExpertWeights<B>* w : {&one, &two}) {
      const std::vector<Index>& shape = p.entry(w->id).shape;
      widest = larger(widest, larger(shape[1], shape[2]));
    }
    const NarrowWeights* const narrow = b_.copies().narrow();
    memory.keep = !arena.wants_weights() && b_.copies().kept();
    memory.narrow = memory.keep && !arena.wants_input() && narrow != nullptr;
    const Index bytes = memory.narrow
                            ? narrow->scratch_bytes(widest)
                            : expert_scratch_bytes<T>(rows, widest, arena.wants_weights());
    memory.workers = b_.workers();
    memory.working = arena.scratch_bytes(static_cast<std::size_t>(bytes * b_.workers()));
    Index packed_bytes = 0;
    for (const ExpertWeights<B>* w : {&one, &two}) {
      const std::vector<Index>& shape = p.entry(w->id).shape;
      if (arena.wants_weights() && b_.copies().kept() && rows >= rows_worth_packing * shape[0])
        packed_bytes += expert_packed_bytes<T>(shape[0], shape[1], shape[2]);
    }
    if (packed_bytes > 0)
      memory.packed = arena.scratch_bytes(static_cast<std::size_t>(packed_bytes));
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
  const T* packed(const Parameters<B>& p, const ExpertWeights<B>& w, Op op, bool renew,
                  Index experts) const {
    CpuWeightCopies::All& all = *w.copies.all;
    DerivedCopy& copy = op == Op::none ? all.plain : all.transposed;
    return static_cast<const T*>(copy.current(key(p), renew, false, [&](void* to) {
      pack(w.value(p), op, experts, static_cast<T*>(to));
    }));
  }
  /// The narrow copy of w. Nothing else has its bits, so passes wait for it.
  /// @throws config_error if w's layer never made a tape for it
  template <class B>
  const void* narrowed(const Parameters<B>& p, const ExpertWeights<B>& w, Index experts) const {
    const NarrowWeights* const narrow = b_.copies().narrow();
    const void* const copy = narrow == nullptr
                                 ? nullptr
                                 : w.copies.all->narrow.current(key(p), true, true, [&](void* to) {
                                     narrow->pack(b_.level(), w.value(p), experts, to);
                                   });
    if (copy == nullptr)
      throw_config(
          "moxie::CpuBackend: the tape is for narrow weights of another layer or backend, expected "
          "one that this layer made with this backend's CpuOptions::copies");
    return copy;
  }

  /// `factors.w` stacks the experts' matrices along its rows: [E*K, N] for Op::none, [E*N, K] for Op::transpose.
  void product(ExpertFactors<T> factors, VectorView<const std::int32_t> offset,
               ExpertRoom room) const;
  /// One product and the next, whose rows the first one makes: a task does both for some rows of an expert, while they are
  /// in cache. Same bits as one after the other.
  void pair(ExpertFactors<T> first, ExpertFactors<T> second, VectorView<const std::int32_t> offset,
            ExpertRoom room) const;
  /// `height`: rows of dw of one expert.
  void weights(Factor<T> x, Factor<T> dy, VectorView<const std::int32_t> offset, Index height,
               VectorView<std::byte> working, MatrixView<T> dw) const;

 private:
  static void check(const ExpertFactors<T>& factors, VectorView<const std::int32_t> offset);
  /// Call it when it is settled whether the weights are packed.
  void check_room(const ExpertFactors<T>& f, const ExpertRoom& room) const {
    const Index needed = 2 * f.inner * panel_bytes;
    if (f.packed == nullptr && needed > room.working.size / b_.workers() / 256 * 256)
      throw_shape("moxie::CpuBackend: product of experts: its scratch has ",
                  room.working.size / b_.workers(), " bytes for each worker, rows of ", f.inner,
                  " need ", needed, ": it was bound for narrower weights");
  }
  /// Rows of which two products are done at once, if what is between them stays in the second level's cache.
  static constexpr Index pair_rows = 256;
  static constexpr Index pair_bytes = 2 * 1024 * 1024;
  /// That an executor's workers are given, so that they end together.
  Index tasks() const { return b_.workers() == 1 ? 1 : 16 * b_.workers(); }

  void pack(MatrixView<const T> w, Op op, Index experts, T* out) const;
  /// Packs the weights of a product of `count` rows into the beginning of `room`, which it leaves without that.
  void pack_before(ExpertFactors<T>& f, Index count, VectorView<std::byte>& room) const {
    const Index bytes =
        f.experts * packed_size<T>(f.inner, f.out.cols) * static_cast<Index>(sizeof(T));
    if (f.packed != nullptr || count < rows_worth_packing / 2 * f.experts || room.size < bytes)
      return;
    T* const out = reinterpret_cast<T*>(room.data);
    pack(f.w, f.op, f.experts, out);
    f.packed = out;
    room = {room.data + bytes, room.size - bytes};
  }
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
void CpuExpertProduct<T>::check(const ExpertFactors<T>& f, VectorView<const std::int32_t> offset) {
  if (f.w.cols == (f.op == Op::none ? f.out.cols : f.inner) &&
      f.w.rows == f.experts * (f.op == Op::none ? f.inner : f.out.cols) &&
      offset[f.experts] <= f.out.rows)
    return;
  throw_shape("moxie::CpuBackend: product of experts: rows are ", f.inner, " wide, ",
              offset[f.experts], " of them, out is [", f.out.rows, " x ", f.out.cols,
              "], and w is [", f.w.rows, " x ", f.w.cols, "] for ", f.experts, " experts, op ",
              f.op == Op::none ? "none" : "transpose");
}

template <class T>
void CpuExpertProduct<T>::product(ExpertFactors<T> f, VectorView<const std::int32_t> offset,
                                  ExpertRoom room) const {
  if (f.experts < 1) return;
  check(f, offset);
  const Index count = offset[f.experts] - offset[0];
  if (count < 1 || f.out.cols < 1) return;
  pack_before(f, count, room.packed);
  check_room(f, room);
  // Many panels a task: its rows stay in cache from panel to panel, and only the first one is not fetched ahead.
  const Index panel = panel_columns<T>(b_.level());
  const Index panels = divide_up(f.out.cols, panel);
  const Index of_row = larger(f.inner, 1) * f.out.cols;
  const ExpertCut cut{offset, of_row, larger(worth_a_task, divide_up(count * of_row, tasks()))};
  b_.parallel(cut.tasks(), [&](Index task, int worker) {
    const auto [e, part] = cut.part_of(task);
    // By columns, and by rows as well where there are more parts than panels.
    const Index by_cols = smaller(cut.parts(e), panels);
    if (by_cols < 1 || part >= cut.parts(e) / by_cols * by_cols) return;
    const Index step = divide_up(panels, by_cols) * panel;
    const Index first = smaller(part % by_cols * step, f.out.cols);
    const Index last = smaller(first + step, f.out.cols);
    const Index all = offset[e + 1] - offset[e];
    const Index rows = even_part(all, divide_up(all, cut.parts(e) / by_cols));
    const Index begin = smaller(offset[e] + part / by_cols * rows, offset[e + 1]);
    const Index end = smaller(begin + rows, offset[e + 1]);
    const T* const after = last < f.out.cols ? nullptr : f.packed_of(e + 1);
    b_.at_level(ExpertTask<T>{f, of_worker(room.working, worker, b_.workers()), after, b_.level(),
                              e, begin, end, first, last});
  });
}

template <class T>
void CpuExpertProduct<T>::pair(ExpertFactors<T> first, ExpertFactors<T> second,
                               VectorView<const std::int32_t> offset, ExpertRoom room) const {
  const Index experts = first.experts;
  const Index count = experts < 1 ? 0 : offset[experts] - offset[0];
  const bool stays = pair_rows * first.out.cols * static_cast<Index>(sizeof(T)) <= pair_bytes;
  if (!stays || count < pair_rows * larger(experts, 6 * b_.workers())) {
    product(first, offset, room);
    product(second, offset, room);
    return;
  }
  check(first, offset);
  check(second, offset);
  pack_before(first, count, room.packed);
  pack_before(second, count, room.packed);
  check_room(first, room);
  check_room(second, room);
  const ExpertCut cut{offset, 1, pair_rows};
  b_.parallel(cut.tasks(), [&](Index task, int worker) {
    const auto [e, part] = cut.part_of(task);
    if (part >= cut.parts(e)) return;
    const Index rows = even_part(offset[e + 1] - offset[e], pair_rows);
    const Index begin = smaller(offset[e] + part * rows, offset[e + 1]);
    const Index end = smaller(begin + rows, offset[e + 1]);
    T* const scratch = of_worker(room.working, worker, b_.workers());
    b_.at_level(ExpertTask<T>{first, scratch, second.packed_of(e), b_.level(), e, begin, end, 0,
                              first.out.cols});
    b_.at_level(ExpertTask<T>{second, scratch, first.packed_of(e), b_.level(), e, begin, end, 0,
                              second.out.cols});
  });
}

template <class T>
void CpuExpertProduct<T>::weights(Factor<T> x, Factor<T> dy, VectorView<const std::int32_t> offset,
                                  Index height, VectorView<std::byte> working,
                                  MatrixView<T> dw) const {
  const Index experts = offset.size - 1;
  if (experts < 1 || offset[experts] == offset[0] || height < 1 || dw.cols < 1) return;
  if (dw.rows != experts * height)
    throw_shape("moxie::CpuBackend: product of experts' weights: dw has ", dw.rows,
                " rows, expected ", experts, " * ", height, " for rows ", height, " wide");
  using Task = ExpertWeightsTask<T>;
  const Index panel = panel_columns<T>(b_.level());
  const Index blocks = divide_up(height, Task::block);
  // Columns are cut only where there would be too few tasks: each packs its block of x anew.
  const Index wanted = b_.workers() == 1 ? 1 : divide_up(4 * b_.workers(), experts * blocks);
  const Index step =
      divide_up(divide_up(dw.cols, smaller(wanted, divide_up(dw.cols, 4 * panel))), panel) * panel;
  const Index of_block = divide_up(dw.cols, step);
  b_.parallel(experts * blocks * of_block, [&](Index task, int worker) {
    const Index e = task / (blocks * of_block);
    const Index row = task / of_block % blocks * Task::block;
    const Index col = task % of_block * step;
    b_.at_level(Task{x, dy, dw, height, offset.data, of_worker(working, worker, b_.workers()), e,
                     row, smaller(row + Task::block, height), col, smaller(col + step, dw.cols)});
  });
}

template <class T>
void CpuExpertProduct<T>::pack(MatrixView<const T> w, Op op, Index experts, T* out) const {
  const Index rows = w.rows / experts;
  const Index inner = op == Op::none ? rows : w.cols;
  const Index cols = op == Op::none ? w.cols : rows;
  const Index panel = panel_columns<T>(b_.level());
  const Index panels = divide_up(cols, panel);
  const Index parts = smaller(divide_up(4 * b_.workers(), experts), panels);
  const Index step = divide_up(panels, larger(parts, 1)) * panel;
  b_.parallel(experts * parts, [&](Index task, int) {
    const Index e = task / parts;
    const Index first = smaller(task % parts * step, cols);
    b_.at_level(PackWeights<T>{{w.data + e * rows * w.stride, w.stride, op, nullptr, nullptr},
                               inner,
                               cols,
                               first,
                               smaller(first + step, cols),
                               out + e * packed_size<T>(inner, cols)});
  });
}

}  // namespace detail
}  // namespace moxie
