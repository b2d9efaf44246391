#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "moxie/backend/device/bf16_experts.hpp"
#include "moxie/backend/device/grouped_shapes.hpp"
#include "moxie/backend/device/kernels/grouped_product.hpp"
#include "moxie/backend/device/kernels/mma_product.hpp"
#include "moxie/backend/device/kernels/narrow_rows.hpp"
#include "moxie/backend/device/kernels/simt_product.hpp"
#include "moxie/backend/device/launch.hpp"
#include "moxie/backend/device/leaf.hpp"
#include "moxie/backend/device/portable.hpp"
#include "moxie/ops/activation.hpp"
#include "moxie/ops/expert_product.hpp"
#include "moxie/ops/layer_product.hpp"

#if defined(MOXIE_KERNELS)

namespace moxie {

template <std::floating_point T, Leaf<T> L>
class DeviceBackend;

namespace detail::device {

/// What a block of a product of experts computes, for many tiles and for few.
template <class T>
struct ExactProducts {
  using Large = SimtProduct<T, 128, 128, 16, 8, 8>;
  using Small = SimtProduct<T, 64, 64, 16, 8, 8>;
};
template <>
struct ExactProducts<double> {
  using Large = SimtProduct<double, 32, 32, 8, 4, 4>;
  using Small = Large;
};
/// `T`: float for tf32, or bf16.
template <class T>
struct MatrixProducts {
  using Large = MmaProduct<T, 128, 128, 64, 64, 2>;
  using Small = MmaProduct<T, 64, 64, 32, 32, 3>;
};

/// Kernels of products of experts. See Twins. They run where the leaf has no grouped products of
/// its own (GroupedLeaf), and as the twin of ExpertProduct, which does its end while the sums are
/// in registers. Floats are multiplied exactly, or as tf32 if the leaf's `options().tf32` is true,
/// or as bf16 (Bf16Experts).
template <class T, KernelLeaf L>
class ProductTwins {
  using Space = typename L::Space;
  template <class F>
  using Operand = MatrixView<const F, Space>;

 public:
  using ExpertCopies = Bf16Weights<DeviceBackend<T, L>>;

  void run(const LayerProduct&, Op op_a, Op op_w, MatrixView<const T, Space> a,
           MatrixView<const T, Space> w, T beta, MatrixView<T, Space> c) {
    self().rounded_gemm(op_a, op_w, a, w, beta, c);
  }

  template <class B>
  void bind(const ExpertProduct&, Arena<B>& arena, const Parameters<B>& p,
            const ExpertWeights<B>& one, const ExpertWeights<B>& two, Index rows,
            ExpertMemory<B>& memory) {
    if constexpr (takes_bf16) {
      const Bf16Experts when = self().leaf().options().bf16_experts;
      memory.keep = !arena.wants_weights();
      memory.narrow =
          when == Bf16Experts::always || (when == Bf16Experts::inference && !arena.wants_input());
      if (!memory.narrow) return;
      Index widest = 1;
      for (const ExpertWeights<B>* w : {&one, &two}) {
        const ParameterEntry& entry = p.entry(w->id);
        for (const Index width : {entry.shape[1], entry.shape[2]})
          widest = width > widest ? width : widest;
        Memory<B>& copy = w->copies.copy->memory;
        if (copy.bytes() == 0) copy = Memory<B>(self(), bf16_bytes(entry.rows(), entry.cols()));
      }
      const std::size_t of_rows = bf16_bytes(rows, widest);
      memory.working = arena.scratch_bytes(arena.wants_weights() ? 2 * of_rows : of_rows);
    }
  }
  template <class B, class End>
  void run(const ExpertProduct&, const Parameters<B>& p, const ExpertWeights<B>& w,
           const ExpertMemory<B>& memory, const Rows<B>& rows, Op op, MatrixView<T, Space> out,
           const End& end) {
    const ConstMatrix<B> weights = w.value(p);
    require_grouped(rows, op, weights, out);
    if constexpr (takes_bf16) {
      if (memory.narrow) return narrow_product(p, w, memory, rows, op, out, end);
    }
    if (even(rows) && fused_strided(rows.x, weights, rows, op, end)) return;
    // the library's strided product is faster than any that looks at offsets
    if (GroupedLeaf<L, B> || even(rows)) {
      self().grouped_gemm(rows, op, weights, out);
      end.whole(static_cast<B&>(*this), rows.offset, out);
    } else {
      ragged_product(factors(rows, weights), rows, op, out, end);
    }
  }
  template <class B>
  void run(const ExpertWeightsProduct&, const ExpertMemory<B>& memory, const Rows<B>& rows,
           const Rows<B>& dy, MatrixView<T, Space> dw) {
    require_grouped_weights(rows, dy, dw);
    if constexpr (takes_bf16) {
      if (memory.narrow) return narrow_weights_product(memory, rows, dy, dw);
    }
    if (GroupedLeaf<L, B> || (even(rows) && even(dy))) {
      self().grouped_gemm_weights(rows, dy, dw);
    } else {
      weights_product(rows, dy, dw);
    }
  }

 protected:
  /// Backend::grouped_gemm, of arguments that fit.
  template <class B>
  void product(const Rows<B>& rows, Op op, ConstMatrix<B> w, MatrixView<T, Space> out) {
    ragged_product(factors(rows, w), rows, op, out, NoEnd{});
  }
  /// Backend::grouped_gemm_weights, of arguments that fit.
  template <class B>
  void weights_product(const Rows<B>& rows, const Rows<B>& dy, MatrixView<T, Space> dw) {
    ragged_weights(gathered(rows), gathered(dy), rows, dw);
  }

 private:
  static constexpr bool takes_bf16 = std::same_as<T, float> && Bf16Leaf<L>;

  /// What kernels read of a product's factors, numbers of type F.
  template <class F>
  struct Factors {
    GatheredRows<F, T> x;
    Strided<const F> w;
  };

  DeviceBackend<T, L>& self() { return static_cast<DeviceBackend<T, L>&>(*this); }

  template <class Product>
  static Index tiles(Index rows, Index cols) {
    return blocks_of(rows, Product::rows) * blocks_of(cols, Product::cols);
  }

  template <class B>
  static GatheredRows<T, T> gathered(const Rows<B>& rows) {
    return {Strided<const T>(rows.x), rows.index.data, rows.scale.data};
  }
  template <class B>
  static Factors<T> factors(const Rows<B>& rows, ConstMatrix<B> w) {
    return {gathered(rows), Strided<const T>(w)};
  }

  // The library's strided product with its end, where that is offered.

  template <class F, class B>
  bool fused_strided(Operand<F> x, Operand<F> w, const Rows<B>& rows, Op op,
                     const BiasEnd<B>& end) {
    return fused_strided(x, w, rows, op, end.bias, end.out, MatrixView<T, Space>(), false);
  }
  template <class F, class B>
  bool fused_strided(Operand<F> x, Operand<F> w, const Rows<B>& rows, Op op,
                     const BiasActivationEnd<B, Gelu>& end) {
    const MatrixView<T, Space> pre = end.keep_pre ? end.pre : MatrixView<T, Space>();
    return fused_strided(x, w, rows, op, end.bias, end.act, pre, true);
  }
  template <class F, class B, class End>
  bool fused_strided(Operand<F>, Operand<F>, const Rows<B>&, Op, const End&) {
    return false;
  }
  template <class F, class B>
  bool fused_strided(Operand<F> x, Operand<F> w, const Rows<B>& rows, Op op, Operand<T> bias,
                     MatrixView<T, Space> out, MatrixView<T, Space> pre, bool gelu) {
    if constexpr (std::same_as<T, float> && FusingLeaf<L>) {
      const Index each = rows.each;
      return self().leaf().fused_gemm_strided(
          op, Op::none, out.cols, each, x.cols, w.data, w.stride,
          w.rows / rows.experts() * w.stride, x.data, x.stride, each * x.stride, out.data,
          out.stride, each * out.stride, rows.experts(),
          StridedEnd<T>{bias.data, bias.stride, gelu, pre.data, pre.stride, each * pre.stride});
    } else {
      return false;
    }
  }

  // bf16. Rows are padded with zeros, so all of them can be copied 16 bytes at a time.

  template <class B, class End>
  void narrow_product(const Parameters<B>& p, const ExpertWeights<B>& w,
                      const ExpertMemory<B>& memory, const Rows<B>& rows, Op op,
                      MatrixView<T, Space> out, const End& end) {
    const Operand<bf16> w16 = narrowed(p, w, memory, op);
    const Operand<bf16> x16 = narrowed(rows, nullptr, memory, 0);
    if (even(rows)) {
      if (fused_strided(x16, w16, rows, op, end)) return;
      const Index height = w16.rows / rows.experts();  // of an expert's matrix
      strided(op, Op::none, out.cols, rows.each, rows.x.cols, w16, height, x16, rows.each, T(0),
              out, rows.each, rows.experts());
      end.whole(static_cast<B&>(*this), rows.offset, out);
    } else {
      ragged_product(Factors<bf16>{padded(x16, rows.scale.data), {w16.data, w16.stride, true}},
                     rows, op, out, end);
    }
  }
  template <class B>
  void narrow_weights_product(const ExpertMemory<B>& memory, const Rows<B>& rows, const Rows<B>& dy,
                              MatrixView<T, Space> dw) {
    const Operand<bf16> x16 = narrowed(rows, rows.scale.data, memory, 0);
    const Operand<bf16> dy16 = narrowed(dy, dy.scale.data, memory, 1);
    if (even(rows) && even(dy)) {
      const Index height = rows.x.cols;  // of an expert's matrix
      strided(Op::none, Op::transpose, dw.cols, height, rows.each, dy16, rows.each, x16, rows.each,
              T(1), dw, height, rows.experts());
    } else {
      ragged_weights(padded(x16, nullptr), padded(dy16, nullptr), rows, dw);
    }
  }
  /// The leaf's product of the transposes (see DeviceBackend); matrices lie so many rows apart.
  void strided(Op op_a, Op op_b, Index m, Index n, Index k, Operand<bf16> a, Index rows_a,
               Operand<bf16> b, Index rows_b, T beta, MatrixView<T, Space> c, Index rows_c,
               Index batch) {
    const Index leading = c.stride > c.cols ? c.stride : c.cols;
    self().leaf().gemm_strided(op_a, op_b, m, n, k, T(1), a.data, a.stride, rows_a * a.stride,
                               b.data, b.stride, rows_b * b.stride, beta, c.data, leading,
                               rows_c * leading, batch);
  }
  static GatheredRows<bf16, T> padded(Operand<bf16> x16, const T* scale) {
    return {{x16.data, x16.stride, true}, nullptr, scale};
  }
  /// The copy of w. A backward pass multiplies by what its forward pass did.
  template <class B>
  Operand<bf16> narrowed(const Parameters<B>& p, const ExpertWeights<B>& w,
                         const ExpertMemory<B>& memory, Op op) {
    auto& copy = *w.copies.copy;
    bf16* const to = reinterpret_cast<bf16*>(copy.memory.data());
    const ConstMatrix<B> from = w.value(p);
    const bool capturing = self().leaf().capturing();
    const bool same_version = copy.made_of == p.version() + 1;
    const bool at_hand = op == Op::none ? memory.keep && !capturing && !copy.captured : true;
    if (!same_version || !at_hand) {
      narrow(from, nullptr, nullptr, {}, from.rows, to);
      copy.made_of = p.version() + 1;
      copy.captured = capturing;
    }
    return {to, from.rows, from.cols, bf16_stride(from.cols)};
  }
  /// Rows in the order of the experts, times `scale` if there is any. A sum over columns is scaled
  /// at its end, in float; one over rows must have them scaled. `part`: of the scratch, 0 or 1.
  template <class B>
  Operand<bf16> narrowed(const Rows<B>& rows, const T* scale, const ExpertMemory<B>& memory,
                         Index part) {
    std::byte* const working = memory.working.data + part * (memory.working.size / 2);
    bf16* const to = reinterpret_cast<bf16*>(working);
    narrow(rows.x, rows.index.data, scale, rows.offset, rows.rows, to);
    return {to, rows.rows, rows.x.cols, bf16_stride(rows.x.cols)};
  }
  void narrow(Operand<T> from, const std::int32_t* index, const T* scale,
              VectorView<const std::int32_t, Space> offset, Index rows, bf16* to) {
    const Index stride = bf16_stride(from.cols);
    self().leaf().launch({.blocks = blocks_of(rows * stride / Chunk<bf16>::size, narrow_threads),
                          .threads = narrow_threads},
                         narrow_rows<T>, Strided<const T>(from), index, scale, offset.data,
                         offset.size - 1, rows, from.cols, to, stride);
  }

  /// f(the product of factors F whose tiles suit the work). Large ones read each factor less
  /// often, small ones are many enough to keep the device busy; `count` tells how many tiles
  /// there would be.
  template <class F, class Count, class G>
  void with_product(const Count& count, const G& f) {
    const auto choose = [&]<class Products>(std::type_identity<Products>) {
      std::type_identity<typename Products::Large> large;
      if (count(large) >= 2 * Index{self().leaf().multiprocessors()}) {
        f(large);
      } else {
        f(std::type_identity<typename Products::Small>());
      }
    };
    if constexpr (std::same_as<F, bf16>) {
      choose(std::type_identity<MatrixProducts<bf16>>());
    } else {
      if constexpr (std::same_as<T, float> && requires(L & leaf) {
                      { leaf.options().tf32 } -> std::convertible_to<bool>;
                    }) {
        if (self().leaf().options().tf32)
          return choose(std::type_identity<MatrixProducts<float>>());
      }
      choose(std::type_identity<ExactProducts<T>>());
    }
  }

  template <class F, class B>
  void ragged_weights(const GatheredRows<F, T>& x, const GatheredRows<F, T>& dy,
                      const Rows<B>& rows, MatrixView<T, Space> dw) {
    const Index experts = rows.experts();
    const Index height = rows.x.cols;
    if (experts < 1 || height < 1 || dw.cols < 1) return;
    const auto launch = [&]<class Product>(std::type_identity<Product>) {
      self().leaf().launch({.blocks = experts * tiles<Product>(height, dw.cols),
                            .threads = Product::threads,
                            .shared_bytes = grouped_weights_bytes<Product>()},
                           grouped_weights<Product>, x, dy, rows.offset.data,
                           static_cast<int>(height), static_cast<int>(dw.cols), Strided<T>(dw));
    };
    with_product<F>(
        [&]<class Product>(std::type_identity<Product>) {
          return experts * tiles<Product>(height, dw.cols);
        },
        launch);
  }

  template <Op op, class F, class B, class End>
  void enqueue(const Factors<F>& f, const Rows<B>& rows, Index cols, const End& end) {
    const Index experts = rows.experts();
    if (experts < 1 || rows.rows < 1 || cols < 1) return;
    // Only the device knows how many tiles there are; an expert's last may be nearly empty.
    const auto at_most = [&]<class Product>(std::type_identity<Product>) {
      const Index partial = experts < rows.rows ? experts : rows.rows;
      return (rows.rows / Product::rows + partial) * blocks_of(cols, Product::cols);
    };
    const auto launch = [&]<class Product>(std::type_identity<Product> product) {
      const std::size_t bytes = grouped_product_bytes<Product, op>(experts);
      const Index resident = Index{self().leaf().multiprocessors()} * Product::blocks_a_processor;
      const Index most = at_most(product);
      self().leaf().launch({.blocks = most < resident ? most : resident,
                            .threads = Product::threads,
                            .shared_bytes = bytes},
                           grouped_product<Product, op, T, End>, f.x, static_cast<int>(rows.x.cols),
                           rows.offset.data, static_cast<int>(experts), f.w, static_cast<int>(cols),
                           end);
    };
    with_product<F>(at_most, launch);
  }

  template <class F, class B, class End>
  void ragged_product(const Factors<F>& f, const Rows<B>& rows, Op op, MatrixView<T, Space> out,
                      const End& end) {
    if (op == Op::none) {
      fused<Op::none>(f, rows, out, end);
    } else {
      fused<Op::transpose>(f, rows, out, end);
    }
  }

  template <Op op, class F, class B>
  void fused(const Factors<F>& f, const Rows<B>& rows, MatrixView<T, Space> out, const NoEnd&) {
    enqueue<op>(f, rows, out.cols, StoreEnd<T, T>{{}, Strided<T>(out)});
  }
  template <Op op, class F, class B>
  void fused(const Factors<F>& f, const Rows<B>& rows, MatrixView<T, Space> out,
             const BiasEnd<B>& end) {
    enqueue<op>(f, rows, out.cols, StoreEnd<T, T>{Strided<const T>(end.bias), Strided<T>(end.out)});
  }
  // Activations are fused where experts have them; each kernel more costs seconds of compile time.
  template <Op op, class F, class B, class A>
  void fused(const Factors<F>& f, const Rows<B>& rows, MatrixView<T, Space> out,
             const BiasActivationEnd<B, A>& end) {
    if constexpr (op == Op::none) {
      enqueue<op>(f, rows, out.cols,
                  ActivationEnd<A, T, T>{Strided<const T>(end.bias),
                                         end.keep_pre ? Strided<T>(end.pre) : Strided<T>(),
                                         Strided<T>(end.act)});
    } else {
      separate<op>(f, rows, out, end);
    }
  }
  template <Op op, class F, class B, class A>
  void fused(const Factors<F>& f, const Rows<B>& rows, MatrixView<T, Space> out,
             const ActivationBackwardEnd<B, A>& end) {
    if constexpr (op == Op::transpose) {
      enqueue<op>(f, rows, out.cols,
                  DerivativeEnd<A, T, T>{Strided<const T>(end.pre), Strided<T>(end.d)});
    } else {
      separate<op>(f, rows, out, end);
    }
  }
  template <Op op, class F, class B, class End>
  void fused(const Factors<F>& f, const Rows<B>& rows, MatrixView<T, Space> out, const End& end) {
    separate<op>(f, rows, out, end);
  }
  template <Op op, class F, class B, class End>
  void separate(const Factors<F>& f, const Rows<B>& rows, MatrixView<T, Space> out,
                const End& end) {
    fused<op>(f, rows, out, NoEnd{});
    end.whole(static_cast<B&>(*this), rows.offset, out);
  }
};

}  // namespace detail::device
}  // namespace moxie

#endif
