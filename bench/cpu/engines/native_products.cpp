#include "own_products.hpp"

std::unique_ptr<bench::ProductsEngine> bench::make_native_products(const ProductsProblem& problem,
                                                                   moxie::Executor& executor) {
  return std::make_unique<OwnProducts>(problem, executor, OwnForm::packed);
}
