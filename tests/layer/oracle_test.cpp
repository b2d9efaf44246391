// The layer against the same by other means: the dense tensors of the definition, another product
// of matrices.
#include "layer/layers.hpp"
#include "moxie/backend/cpu/eigen_product.hpp"
#include "support/numbers.hpp"

using namespace moxie;
using namespace moxie::test;

TEST_CASE(
    "the dense oracle and the layer agree, in training and with another capacity in evaluation") {
  using B = CpuBackend<double>;
  B backend;
  for (const char* priority : {"first", "bpr"})
    for (const Index group : {0, 8}) {
      const Config<B> c{.group = group,
                        .output = 3,
                        .priority = priority,
                        .capacity = CapacityFactor{.factor = 1.25},
                        .importance = 0.3};
      const auto dense = make_dense(backend, c, Dropless{});
      Runner<DenseMoe<B>> by_tensors(dense, 16);
      const std::vector<double> x = normals(80, 1);
      const std::vector<double> dy = normals(48, 2);
      for (const Mode mode : {Mode::train, Mode::eval}) {
        Config<B> own = c;
        if (mode == Mode::eval) own.capacity = Dropless{};
        const Moe<B> layer = make_moe(backend, own);
        Runner<Moe<B>> by_lists(layer, 16);
        const auto a = by_tensors.run(x, dy, {.mode = mode});
        const auto b = by_lists.run(x, dy, {.mode = mode});
        check_near(a.y, b.y);
        check_near(a.dx, b.dx);
        check_near(a.gradients, b.gradients);
        CHECK(a.choice == b.choice);
      }
    }
}

TEST_CASE("Eigen's product gives the same numbers") {
  using B = CpuBackend<double>;
  B own;
  B eigen(CpuOptions{.product = &eigen_products});
  const Config<B> c{.capacity = CapacityFactor{.factor = 1}, .importance = 0.3};
  const Moe<B> a = make_moe(own, c);
  const Moe<B> b = make_moe(eigen, c);
  Runner<Moe<B>> on_own(a, 12);
  Runner<Moe<B>> on_eigen(b, 12);
  const auto wanted = on_own.run(normals(60, 1), normals(60, 2));
  const auto got = on_eigen.run(normals(60, 1), normals(60, 2));
  CHECK(got.choice == wanted.choice);
  check_near(got.y, wanted.y);
  check_near(got.dx, wanted.dx);
  check_near(got.gradients, wanted.gradients);
}
