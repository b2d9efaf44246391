// What AdamWUpdate does with moments that have all but vanished; the formula is tested with the optimizer.
#include "moxie/ops/adam_w.hpp"

#include <vector>

#include "support/backends.hpp"

using namespace moxie;

TEST_CASE("AdamW in float makes a moment 0 before it is a denormal number") {
  CpuBackend<float> cpu;
  std::vector<float> p(70, 1);
  const std::vector<float> g(70, 0);
  std::vector<float> m(70, 1e-29F);
  std::vector<float> v(70, 1.0005e-30F);
  m[1] = -1e-40F;  // as an older checkpoint may have it
  const AdamWFactors<float> factors{.learning_rate = 0.1F,
                                    .decay = 0,
                                    .beta1 = 0.9F,
                                    .beta2 = 0.999F,
                                    .rest1 = 0.1F,
                                    .rest2 = 0.001F,
                                    .correction1 = 1,
                                    .correction2 = 1,
                                    .epsilon = 1e-8F};
  const auto step = [&] {
    adam_w_update(cpu, VectorView<float>(p.data(), 70), VectorView<const float>(g.data(), 70),
                  VectorView<float>(m.data(), 70), VectorView<float>(v.data(), 70), factors);
  };
  step();
  CHECK(m[0] == doctest::Approx(9e-30).epsilon(1e-6));
  CHECK(m[1] == 0.0F);
  CHECK(v[0] == 0.0F);                  // 0.9995e-30
  for (int i = 0; i < 21; ++i) step();  // 9e-30 * 0.9^21 = 0.98e-30
  CHECK(m[0] == 0.0F);
  CHECK(m[69] == 0.0F);
  CHECK(p[0] == 1.0F);
}
