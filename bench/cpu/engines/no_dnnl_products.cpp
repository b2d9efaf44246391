#include "products.hpp"

std::unique_ptr<bench::ProductsEngine> bench::make_dnnl_products(const ProductsProblem&,
                                                                 moxie::Executor&) {
  return nullptr;
}
