#pragma once

#include <concepts>
#include <type_traits>

#include "moxie/backend/device/grouped_shapes.hpp"
#include "moxie/backend/device/kernels/grouped_product.hpp"
#include "moxie/backend/device/kernels/mma_product.hpp"
#include "moxie/backend/device/kernels/simt_product.hpp"
#include "moxie/backend/device/launch.hpp"
#include "moxie/backend/device/leaf.hpp"
#include "moxie/backend/device/portable.hpp"
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
/// in registers. Floats are multiplied exactly, or as tf32 if the leaf's `options().tf32` is true.
template <class T, KernelLeaf L>
class ProductTwins {
  using Space = typename L::Space;

 public:
  void run(const LayerProduct&, Op op_a, Op op_w, MatrixView<const T, Space> a,
           MatrixView<const T, Space> w, T beta, MatrixView<T, Space> c) {
    self().rounded_gemm(op_a, op_w, a, w, beta, c);
  }
  template <class B, class End>
  void run(const ExpertProduct&, const Parameters<B>& p, const ExpertWeights<B>& w,
           const ExpertMemory<B>&, const Rows<B>& rows, Op op, MatrixView<T, Space> out,
           const End& end) {
    const ConstMatrix<B> weights = w.value(p);
    require_grouped(rows, op, weights, out);
    if (even(rows)) {  // the library's strided product is faster than any that looks at offsets
      self().grouped_gemm(rows, op, weights, out);
      end.whole(static_cast<B&>(*this), rows.offset, out);
    } else if (op == Op::none) {
      fused<Op::none>(rows, weights, out, end);
    } else {
      fused<Op::transpose>(rows, weights, out, end);
    }
  }
  template <class B>
  void run(const ExpertWeightsProduct&, const ExpertMemory<B>&, const Rows<B>& rows,
           const Rows<B>& dy, MatrixView<T, Space> dw) {
    require_grouped_weights(rows, dy, dw);
    if (even(rows) && even(dy)) {
      self().grouped_gemm_weights(rows, dy, dw);
    } else {
      weights_product(rows, dy, dw);
    }
  }

 protected:
  /// Backend::grouped_gemm, of arguments that fit.
  template <class B>
  void product(const Rows<B>& rows, Op op, ConstMatrix<B> w, MatrixView<T, Space> out) {
    if (op == Op::none) {
      fused<Op::none>(rows, w, out, NoEnd{});
    } else {
      fused<Op::transpose>(rows, w, out, NoEnd{});
    }
  }

  /// Backend::grouped_gemm_weights, of arguments that fit.
  template <class B>
  void weights_product(const Rows<B>& rows, const Rows<B>& dy, MatrixView<T, Space> dw) {
    const Index height = rows.x.cols;
    const auto launch = [&]<class Product>(std::type_identity<Product>) {
      self().leaf().launch({.blocks = rows.experts() * tiles<Product>(height, dw.cols),
                            .threads = Product::threads,
                            .shared_bytes = grouped_weights_bytes<Product>()},
                           grouped_weights<Product>, gathered(rows), gathered(dy),
                           rows.offset.data, static_cast<int>(height), static_cast<int>(dw.cols),
                           Strided<T>(dw));
    };
    if (rows.experts() < 1 || height < 1 || dw.cols < 1) return;
    with_product(
        [&]<class Product>(std::type_identity<Product>) {
          return rows.experts() * tiles<Product>(height, dw.cols);
        },
        launch);
  }

 private:
  DeviceBackend<T, L>& self() { return static_cast<DeviceBackend<T, L>&>(*this); }

  template <class Product>
  static Index tiles(Index rows, Index cols) {
    return blocks_of(rows, Product::rows) * blocks_of(cols, Product::cols);
  }

  template <class B>
  static GatheredRows<T, T> gathered(const Rows<B>& rows) {
    return {Strided<const T>(rows.x), rows.index.data, rows.scale.data};
  }

  /// f(the product whose tiles suit the work). Large ones read each factor less often, small ones
  /// are many enough to keep the device busy; `count` tells how many tiles there would be.
  template <class Count, class F>
  void with_product(const Count& count, const F& f) {
    const auto choose = [&]<class Products>(std::type_identity<Products>) {
      std::type_identity<typename Products::Large> large;
      if (count(large) >= 2 * Index{self().leaf().multiprocessors()}) {
        f(large);
      } else {
        f(std::type_identity<typename Products::Small>());
      }
    };
    if constexpr (std::same_as<T, float> && requires(L& leaf) {
                    { leaf.options().tf32 } -> std::convertible_to<bool>;
                  }) {
      if (self().leaf().options().tf32) return choose(std::type_identity<MatrixProducts<float>>());
    }
    choose(std::type_identity<ExactProducts<T>>());
  }

  template <Op op, class B, class End>
  void enqueue(const Rows<B>& rows, ConstMatrix<B> w, Index cols, const End& end) {
    const Index experts = rows.experts();
    if (experts < 1 || rows.rows < 1 || cols < 1) return;
    // Only the device knows how many tiles there are; an expert's last may be nearly empty.
    const auto at_most = [&]<class Product>(std::type_identity<Product>) {
      const Index partial = experts < rows.rows ? experts : rows.rows;
      return (rows.rows / Product::rows + partial) * blocks_of(cols, Product::cols);
    };
    const auto launch = [&]<class Product>(std::type_identity<Product> product) {
      const std::size_t bytes = grouped_product_bytes<Product, op>(experts);
      const Index resident =
          Index{self().leaf().multiprocessors()} * Product::blocks_a_processor;
      const Index most = at_most(product);
      self().leaf().launch(
          {.blocks = most < resident ? most : resident,
           .threads = Product::threads,
           .shared_bytes = bytes},
          grouped_product<Product, op, T, End>, gathered(rows), static_cast<int>(rows.x.cols),
          rows.offset.data, static_cast<int>(experts), Strided<const T>(w),
          static_cast<int>(cols), end);
    };
    with_product(at_most, launch);
  }

  template <Op op, class B>
  void fused(const Rows<B>& rows, ConstMatrix<B> w, MatrixView<T, Space> out, const NoEnd&) {
    enqueue<op>(rows, w, out.cols, StoreEnd<T, T>{{}, Strided<T>(out)});
  }
  template <Op op, class B>
  void fused(const Rows<B>& rows, ConstMatrix<B> w, MatrixView<T, Space> out,
             const BiasEnd<B>& end) {
    enqueue<op>(rows, w, out.cols, StoreEnd<T, T>{Strided<const T>(end.bias), Strided<T>(end.out)});
  }
  // Activations are fused where experts have them; each kernel more costs seconds of compile time.
  template <Op op, class B, class A>
  void fused(const Rows<B>& rows, ConstMatrix<B> w, MatrixView<T, Space> out,
             const BiasActivationEnd<B, A>& end) {
    if constexpr (op == Op::none) {
      enqueue<op>(rows, w, out.cols,
                  ActivationEnd<A, T, T>{Strided<const T>(end.bias),
                                         end.keep_pre ? Strided<T>(end.pre) : Strided<T>(),
                                         Strided<T>(end.act)});
    } else {
      separate<op>(rows, w, out, end);
    }
  }
  template <Op op, class B, class A>
  void fused(const Rows<B>& rows, ConstMatrix<B> w, MatrixView<T, Space> out,
             const ActivationBackwardEnd<B, A>& end) {
    if constexpr (op == Op::transpose) {
      enqueue<op>(rows, w, out.cols,
                  DerivativeEnd<A, T, T>{Strided<const T>(end.pre), Strided<T>(end.d)});
    } else {
      separate<op>(rows, w, out, end);
    }
  }
  template <Op op, class B, class End>
  void fused(const Rows<B>& rows, ConstMatrix<B> w, MatrixView<T, Space> out, const End& end) {
    separate<op>(rows, w, out, end);
  }
  template <Op op, class B, class End>
  void separate(const Rows<B>& rows, ConstMatrix<B> w, MatrixView<T, Space> out, const End& end) {
    fused<op>(rows, w, out, NoEnd{});
    end.whole(static_cast<B&>(*this), rows.offset, out);
  }
};

}  // namespace detail::device
}  // namespace moxie

#endif
