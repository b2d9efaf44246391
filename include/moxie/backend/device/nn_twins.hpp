#pragma once

#include <concepts>
#include <cstddef>
#include <type_traits>

#include "moxie/backend/device/kernels/attention.hpp"
#include "moxie/backend/device/kernels/column_sums.hpp"
#include "moxie/backend/device/kernels/cross_entropy.hpp"
#include "moxie/backend/device/kernels/expert_bias.hpp"
#include "moxie/backend/device/kernels/flat_pass.hpp"
#include "moxie/backend/device/kernels/flat_sums.hpp"
#include "moxie/backend/device/kernels/gated_pass.hpp"
#include "moxie/backend/device/kernels/layer_norm.hpp"
#include "moxie/backend/device/kernels/row_pass.hpp"
#include "moxie/backend/device/kernels/softmax.hpp"
#include "moxie/backend/device/launch.hpp"
#include "moxie/backend/device/leaf.hpp"
#include "moxie/backend/device/portable.hpp"
#include "moxie/ops/activate.hpp"
#include "moxie/ops/add_rows.hpp"
#include "moxie/ops/attention.hpp"
#include "moxie/ops/clip_to_norm.hpp"
#include "moxie/ops/copy_rows.hpp"
#include "moxie/ops/expert_bias.hpp"
#include "moxie/ops/fill_rows.hpp"
#include "moxie/ops/gated_activation.hpp"
#include "moxie/ops/group_sums.hpp"
#include "moxie/ops/kl_divergence.hpp"
#include "moxie/ops/layer_norm.hpp"
#include "moxie/ops/mean_tokens.hpp"
#include "moxie/ops/norm.hpp"

#if defined(MOXIE_KERNELS)

namespace moxie {

template <std::floating_point T, Leaf<T> L>
class DeviceBackend;

namespace detail::device {

/// Kernels of networks: attention, norms, losses, optimizers, sums over rows, those of an expert
/// too. See Twins.
template <class T, KernelLeaf L>
class NnTwins {
  using Space = typename L::Space;
  using Matrix = MatrixView<T, Space>;
  using ConstMatrix = MatrixView<const T, Space>;
  using Vector = VectorView<T, Space>;
  using ConstVector = VectorView<const T, Space>;
  using Experts = VectorView<const std::int32_t, Space>;

 public:
  template <class B>
  void bind(const Attention&, Arena<B>& arena, const AttentionShape& shape,
            AttentionMemory<B>& memory) const {
    if (!fused(shape)) return Attention::generic_bind(arena, shape, memory);
    memory.kept = memory.working = {};
    if (!arena.wants_input()) return;
    const Index rows = shape.images * shape.heads * shape.queries;
    memory.kept = arena.template saved<T>(rows, 2 + shape.width);
    memory.working = arena.template scratch<T>(rows, 1);
  }
  template <class B>
  void run(const Attention&, const AttentionShape& shape, ConstMatrix q, ConstMatrix k,
           ConstMatrix v, const AttentionMemory<B>& memory, Matrix o) {
    if (!fused(shape))
      return Attention::generic(static_cast<B&>(self()), shape, q, k, v, memory, o);
    at_width(shape, [&]<int Width>() {
      using Tile = AttentionTile<T, Width>;
      launch_attention<Tile>(shape, shape.queries, Tile::bytes(1, 2),
                             attention_forward<T, Width, Space>, heads_of(q, shape),
                             heads_of(k, shape), heads_of(v, shape), static_cast<T>(shape.scale),
                             kept_of(shape, memory), heads_of(o, shape));
    });
  }
  template <class B>
  void run(const AttentionBackward&, const AttentionShape& shape, ConstMatrix q, ConstMatrix k,
           ConstMatrix v, ConstMatrix d_o, const AttentionMemory<B>& memory, Matrix dq, Matrix dk,
           Matrix dv) {
    if (!fused(shape))
      return AttentionBackward::generic(static_cast<B&>(self()), shape, q, k, v, d_o, memory, dq,
                                        dk, dv);
    const AttentionKept<T> kept = kept_of(shape, memory);
    T* const inner = memory.working.data;
    const auto scale = static_cast<T>(shape.scale);
    at_width(shape, [&]<int Width>() {
      using Tile = AttentionTile<T, Width>;
      launch_attention<Tile>(shape, shape.queries, Tile::bytes(2, 2),
                             attention_backward_queries<T, Width, Space>, heads_of(q, shape),
                             heads_of(k, shape), heads_of(v, shape), heads_of(d_o, shape), scale,
                             kept, inner, heads_of(dq, shape));
      launch_attention<Tile>(shape, shape.keys, Tile::bytes(2, 2),
                             attention_backward_keys<T, Width, Space>, heads_of(q, shape),
                             heads_of(k, shape), heads_of(v, shape), heads_of(d_o, shape), scale,
                             kept, inner, heads_of(dk, shape), heads_of(dv, shape));
    });
  }

  void run(const LayerNormRows&, ConstMatrix x, ConstVector scale, ConstVector bias, double epsilon,
           Matrix y, Matrix stats) {
    with_held<1>(x.cols, [&]<int Held>() {
      launch_rows(x.rows, layer_norm_forward<T, Held, Space>, x, scale.data, bias.data,
                  static_cast<T>(epsilon), y, stats);
    });
  }
  void run(const LayerNormRowsBackward&, ConstMatrix x, ConstMatrix stats, ConstVector scale,
           ConstMatrix dy, ConstMatrix add, Matrix dx) {
    with_held<2>(x.cols, [&]<int Held>() {
      launch_rows(x.rows, layer_norm_backward<T, Held, Space>, x, stats, scale.data, dy, add, dx);
    });
  }
  void run(const SoftmaxRows&, ConstMatrix in, Matrix out) {
    with_held<1>(in.cols, [&]<int Held>() {
      launch_rows(in.rows, softmax_forward<T, Held, Space>, in, out);
    });
  }
  void run(const SoftmaxRowsBackward&, ConstMatrix p, ConstMatrix dp, Matrix dx, bool accumulate) {
    with_held<2>(p.cols, [&]<int Held>() {
      launch_rows(p.rows, softmax_backward<T, Held, Space>, p, dp, dx, accumulate);
    });
  }
  void run(const SoftmaxCrossEntropy&, ConstMatrix scores, ConstMatrix labels, Vector losses,
           Matrix d_scores, double factor) {
    launch_rows(scores.rows, softmax_cross_entropy_rows<T, Space>, scores, labels, losses, d_scores,
                mean_factor<T>(factor, scores.rows));
  }
  void run(const SigmoidCrossEntropy&, ConstMatrix scores, ConstMatrix labels, Vector losses,
           Matrix d_scores, double factor) {
    launch_rows(scores.rows, sigmoid_cross_entropy_rows<T, Space>, scores, labels, losses, d_scores,
                mean_factor<T>(factor, scores.rows));
  }
  void run(const KlDivergence&, ConstMatrix p, ConstMatrix q, Vector losses, Matrix dp, Matrix dq,
           double factor) {
    launch_rows(p.rows, kl_divergence_rows<T, Space>, p, q, losses, dp, dq,
                mean_factor<T>(factor, p.rows));
  }

  template <class A>
  void run(const Activate<A>&, ConstMatrix pre, Matrix act) {
    launch_pass(act.rows, act.cols, packs(pre) && packs(act),
                ActivationPass<T, Space, A>{{}, {}, pre, nullptr, act});
  }
  template <class A>
  void run(const BiasActivation<A>&, ConstMatrix bias, Experts offset, Matrix pre, Matrix act,
           bool keep_pre) {
    launch_pass(pre.rows, pre.cols, packs(bias) && packs(pre) && packs(act),
                ActivationPass<T, Space, A>{bias, offset, pre, keep_pre ? pre.data : nullptr, act});
  }
  template <class A>
  void run(const ActivationBackward<A>&, Experts offset, ConstMatrix pre, Matrix d) {
    launch_pass(pre.rows, pre.cols, packs(pre) && packs(d),
                DerivativePass<T, Space, A>{offset, pre, d});
  }
  template <class A>
  void run(const GatedActivation<A>&, ConstMatrix bias, Experts offset, Matrix pre, Matrix act) {
    launch_pass(act.rows, act.cols, packs(bias) && packs(pre) && packs(act),
                GatedActivationPass<T, Space, A>{bias, offset, pre, act});
  }
  template <class A>
  void run(const GatedActivationBackward<A>&, Experts offset, ConstMatrix pre, Matrix d) {
    const Index half = d.cols / 2;
    launch_pass(d.rows, half, packs(pre) && packs(d) && half % pack_width<T> == 0,
                GatedDerivativePass<T, Space, A>{offset, pre, d});
  }
  void run(const AddRows&, ConstMatrix a, ConstMatrix b, Matrix out) {
    launch_pass(out.rows, out.cols, packs(a) && packs(b) && packs(out),
                AddPass<T, Space>{a, b, out});
  }
  void run(const AddVector&, ConstMatrix in, ConstVector add, Matrix out) {
    const ConstMatrix all(add.data, in.rows, in.cols, 0);  // one row stands for all
    launch_pass(out.rows, out.cols, packs(in) && packs(all) && packs(out),
                AddPass<T, Space>{in, all, out});
  }
  void run(const CopyRows&, ConstMatrix in, Matrix out) {
    const ConstMatrix all(in.data, out.rows, in.cols, in.rows == 1 ? 0 : in.stride);
    launch_pass(out.rows, out.cols, packs(all) && packs(out), CopyPass<T, Space>{all, out});
  }
  void run(const FillRows&, T value, Matrix out) {
    launch_pass(out.rows, out.cols, packs(out), FillPass<T, Space>{value, out});
  }
  template <class B>
  void run(const ExpertBiasBackward&, const Rows<B>& dy, Matrix d_bias) {
    const auto launch = [&](Index columns, auto kernel) {
      const Index tiles = blocks_of(d_bias.cols, columns);
      self().leaf().launch({.blocks = d_bias.rows * tiles, .threads = bias_threads}, kernel, dy,
                           d_bias, tiles);
    };
    // Accesses of a warp are whole lines in both: packs need fewer of them, but make fewer blocks.
    constexpr int width = pack_width<T>;
    const Index packed = d_bias.rows * blocks_of(d_bias.cols, warp_size * width);
    if (packs(dy.x) && packed >= 2 * Index{self().leaf().multiprocessors()}) {
      launch(warp_size * width, sum_expert_rows<B, width>);
    } else {
      launch(warp_size, sum_expert_rows<B, 1>);
    }
  }
  void run(const MeanTokens&, ConstMatrix x, Matrix y) {
    if (y.cols == 0) return;
    const Index tokens = x.cols / y.cols;
    launch_pass(y.rows, y.cols, packs(x) && packs(y),
                MeanTokensPass<T, Space>{x, y, tokens, T(1) / static_cast<T>(tokens)});
  }
  void run(const MeanTokensBackward&, ConstMatrix dy, Matrix dx) {
    if (dy.cols == 0) return;
    const Index tokens = dx.cols / dy.cols;
    launch_pass(dx.rows * tokens, dy.cols, packs(dy) && packs(dx),
                SpreadTokensPass<T, Space>{dy, dx, tokens, T(1) / static_cast<T>(tokens)});
  }

  void run(const AdamWUpdate&, Vector values, ConstVector gradients, Vector first, Vector second,
           const AdamWFactors<T>& factors) {
    launch_flat(values.size,
                flat_packs(values.size, values.data, gradients.data, first.data, second.data),
                AdamWPass<T>{values.data, gradients.data, first.data, second.data, factors});
  }
  void run(const SgdUpdate&, Vector values, ConstVector gradients, Vector trace,
           const SgdFactors<T>& factors) {
    launch_flat(values.size, flat_packs(values.size, values.data, gradients.data, trace.data),
                SgdPass<T>{values.data, gradients.data, trace.data, factors});
  }
  void run(const ClipToNorm&, Vector x, VectorView<const double, Space> squared_norm,
           double limit) {
    launch_flat(x.size, flat_packs(x.size, x.data), ClipPass<T>{x.data, squared_norm.data, limit});
  }
  void run(const SquaredNorm&, ConstVector x, VectorView<double, Space> out, bool accumulate,
           VectorView<std::byte, Space> scratch) {
    auto* sums = reinterpret_cast<double*>(scratch.data);
    Index left = chunks_of(x.size);
    launch_rows(left, sum_chunks<Square, T>, x.data, x.size, left, sums, false);
    while (left > flat_chunk) {
      const Index chunks = chunks_of(left);
      launch_rows(chunks, sum_chunks<Identity, double>, sums, left, chunks, sums + left, false);
      sums += left;
      left = chunks;
    }
    launch_rows(1, sum_chunks<Identity, double>, sums, left, Index{1}, out.data, accumulate);
  }

  /// A group of more rows than a chunk has a block for each chunk, then one for the chunks' sums: by default a group is
  /// the whole batch.
  template <class F>
  void run(const GroupSums&, const GroupShape& s, const F& f, Vector sums) {
    const Vector totals = group_totals(sums, s);
    const Index chunks = s.chunks();
    Index used = totals.size;
    if (chunks > 1) {
      const Vector parts = sums.middle(used, used * chunks);
      launch_sums(s.groups, {s.group, sum_chunk, chunks}, s.cols, sum_made_rows<T, F>, f,
                  parts.data);
      launch_sums(s.groups, {chunks, chunks, 1}, s.cols, sum_rows<T, DenseTerm<T>>,
                  DenseTerm<T>{parts.data, s.cols}, totals.data, false);
      used += parts.size;
    } else {
      launch_sums(s.groups, {s.group, s.group, 1}, s.cols, sum_made_rows<T, F>, f, totals.data);
    }
    if (used < sums.size) self().fill(sums.middle(used, sums.size - used), T(0));
  }

 protected:
  /// DeviceBackend::column_sums; `sums`: [ceil(rows / sum_chunk), cols].
  template <class F>
  void run_column_sums(Index rows, Index cols, const F& f, T* sums, T* out) {
    if (rows == 0) return;
    const Index chunks = blocks_of(rows, sum_chunk);
    if (chunks == 1) return launch_sums(1, {rows, rows, 1}, cols, sum_rows<T, F>, f, out, true);
    launch_sums(1, {rows, sum_chunk, chunks}, cols, sum_rows<T, F>, f, sums, false);
    launch_sums(1, {chunks, chunks, 1}, cols, sum_rows<T, DenseTerm<T>>, DenseTerm<T>{sums, cols},
                out, true);
  }

 private:
  DeviceBackend<T, L>& self() { return static_cast<DeviceBackend<T, L>&>(*this); }

  static bool fused(const AttentionShape& s) { return s.keys > 0 && s.width > 0 && s.width <= 128; }
  template <class F>
  static void at_width(const AttentionShape& s, const F& f) {
    s.width <= 64 ? f.template operator()<64>() : f.template operator()<128>();
  }
  template <class B>
  static AttentionKept<T> kept_of(const AttentionShape& s, const AttentionMemory<B>& memory) {
    return {memory.kept.data, s.images * s.heads * s.queries};
  }
  template <class Tile, class... P>
  void launch_attention(const AttentionShape& s, Index rows, std::size_t bytes,
                        void (*kernel)(P...), std::type_identity_t<P>... arguments) {
    self().leaf().launch({.blocks = s.images * s.heads * blocks_of(rows, Tile::own),
                          .threads = Tile::threads,
                          .shared_bytes = bytes},
                         kernel, arguments...);
  }

  /// f<Held>() with rows of `cols` held in registers if they are short: at most 32 registers for a
  /// kernel that holds `Rows` of them. More would leave too few threads to hide memory's latency.
  template <int Rows, class F>
  static void with_held(Index cols, const F& f) {
    if (cols <= 8 * strip_lanes) return f.template operator()<8>();
    if constexpr (24 * Rows * sizeof(T) <= 32 * sizeof(float)) {
      if (cols <= 24 * strip_lanes) return f.template operator()<24>();
    }
    f.template operator()<0>();
  }
  template <class... P>
  void launch_rows(Index rows, void (*kernel)(P...), std::type_identity_t<P>... arguments) {
    self().leaf().launch({.blocks = blocks_of(rows, strip_rows), .threads = strip_threads}, kernel,
                         arguments...);
  }
  /// In packs if `packed`, a quarter as many threads as accesses a row, so that each has some.
  template <class Pass>
  void launch_pass(Index rows, Index cols, bool packed, const Pass& pass) {
    const Index count = packed ? cols / pack_width<T> : cols;
    int log_lanes = 0;
    while ((1 << log_lanes) < row_pass_threads && (Index{4} << log_lanes) < count) ++log_lanes;
    const Index blocks = count > 0 ? blocks_of(rows, row_pass_threads >> log_lanes) : 0;
    const Launch shape{.blocks = blocks, .threads = row_pass_threads};
    const int accesses = static_cast<int>(count);
    if (packed) {
      self().leaf().launch(shape, row_pass<pack_width<T>, Pass>, pass, rows, accesses, log_lanes);
    } else {
      self().leaf().launch(shape, row_pass<1, Pass>, pass, rows, accesses, log_lanes);
    }
  }
  template <class Pass>
  void launch_flat(Index size, FlatPacks packed, const Pass& pass) {
    // As many blocks as run at a time, eight on a multiprocessor, but none without work.
    const Index all = blocks_of(packed.packs > 0 ? packed.packs : size, flat_threads);
    const Index most = Index{8} * self().leaf().multiprocessors();
    self().leaf().launch(
        {.blocks = size > 0 ? (all < most ? all : most) : 0, .threads = flat_threads},
        flat_pass<T, Pass>, pass, size, packed);
  }
  /// A block for each chunk and each tile of columns.
  template <class F, class... P>
  void launch_sums(Index groups, const RowChunks& rows, Index cols,
                   void (*kernel)(F, RowChunks, Index, Index, int, T*, P...),
                   const std::type_identity_t<F>& f, T* out, std::type_identity_t<P>... rest) {
    int log_width = 0;
    while ((1 << log_width) < column_sum_width && (Index{1} << log_width) < cols) ++log_width;
    const Index tiles = blocks_of(cols, Index{1} << log_width);
    self().leaf().launch({.blocks = groups * rows.chunks * tiles, .threads = column_sum_threads},
                         kernel, f, rows, cols, tiles, log_width, out, rest...);
  }
};

}  // namespace detail::device
}  // namespace moxie

#endif
