// The kernels that layers of experts launch (backend/device/product_twins.hpp), for check.py to look at.
#include "moxie/backend/device/kernels/grouped_product.hpp"
#include "moxie/backend/device/product_twins.hpp"
#include "moxie/core/bf16.hpp"
#include "moxie/ops/activation.hpp"

namespace moxie::detail::device {

template <class Product, Op op, class End>
void keep_product() {
  [[maybe_unused]] auto* const volatile kernel =
      &grouped_product<Product, op, typename Product::Sum, End>;
}
template <class Product>
void keep() {
  using T = typename Product::Element;
  using Sum = typename Product::Sum;
  keep_product<Product, Op::none, StoreEnd<Sum, T>>();
  keep_product<Product, Op::transpose, StoreEnd<Sum, T>>();
  keep_product<Product, Op::none, ActivationEnd<Gelu, Sum, T>>();
  keep_product<Product, Op::transpose, DerivativeEnd<Gelu, Sum, T>>();
  [[maybe_unused]] auto* const volatile kernel = &grouped_weights<Product>;
}
void keep_all() {
  keep<ExactProducts<float>::Large>();
  keep<ExactProducts<float>::Small>();
  keep<ExactProducts<double>::Small>();
  keep<MatrixProducts<float>::Large>();
  keep<MatrixProducts<float>::Small>();
  keep<MatrixProducts<bf16>::Large>();
  keep<MatrixProducts<bf16>::Small>();
}

}  // namespace moxie::detail::device
