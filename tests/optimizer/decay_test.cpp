#include "moxie/optimizer/decay.hpp"
#include "moxie/optimizer/adam_w.hpp"
#include "moxie/optimizer/sgd.hpp"
#include "optimizer/model.hpp"
#include "support/backends.hpp"

using moxie::Decay;

TEST_CASE("Decay goes by the last words of a name, and the first rule that fits decides") {
  const Decay kernels = Decay::kernels(0.1);
  CHECK(kernels("head/kernel") == 0.1);
  CHECK(kernels("kernel") == 0.1);
  CHECK(kernels("head/bias") == 0);
  CHECK(kernels("LayerNorm_0/scale") == 0);
  CHECK(kernels("posembed_input/pos_embedding") == 0);
  CHECK(kernels("head/mykernel") == 0);
  CHECK(kernels("kernel/bias") == 0);

  const Decay soft{{{"head/kernel", 3.0}, {"kernel", 0.03}, {"Moe/scale", 0.03}}};
  CHECK(soft("head/kernel") == 3.0);
  CHECK(soft("Robust/head/kernel") == 3.0);
  CHECK(soft("ahead/kernel") == 0.03);
  CHECK(soft("Encoder/encoderblock_5/Moe/Mlp/Dense_0/kernel") == 0.03);
  CHECK(soft("Encoder/encoderblock_5/Moe/scale") == 0.03);
  CHECK(soft("Encoder/encoder_norm/scale") == 0);

  CHECK(Decay::all(0.1)("anything") == 0.1);
  CHECK(Decay::none()("head/kernel") == 0);
  CHECK(Decay{} == Decay::none());
}

TEST_CASE("Decay becomes few segments") {
  using B = moxie::CpuBackend<double>;
  B backend;
  moxie::Parameters<B> p(backend);
  moxie::test::add(p, "a/kernel", {2, 3});
  moxie::test::add(p, "a/experts/kernel", {2, 2, 2}, true);
  moxie::test::add(p, "a/bias", {3});
  moxie::test::add(p, "b/scale", {4});
  moxie::test::add(p, "b/kernel", {5});
  p.add({.name = "b/counts", .shape = {9}, .trained = false});
  p.initialize(0);

  const auto segments = moxie::decay_segments(Decay::kernels(0.5), p);
  REQUIRE(segments.size() == 3);
  CHECK(segments[0].first == 0);
  CHECK(segments[0].size == 6);
  CHECK(segments[0].rate == 0.5);
  CHECK(segments[1].size == 7);
  CHECK(segments[1].rate == 0);
  CHECK(segments[2].size == 13);  // b/kernel and the experts
  CHECK(moxie::decay_segments(Decay::all(0.1), p).size() == 1);
  CHECK_THROWS_AS(moxie::decay_segments(Decay{{{"", 1.0}}}, p), moxie::config_error);
  CHECK_THROWS_AS(moxie::decay_segments(Decay::all(std::nan("")), p), moxie::config_error);
}

TEST_CASE_TEMPLATE("Optimizers decay by name", B, MOXIE_TEST_BACKENDS) {
  B backend = moxie::test::make_backend<B>();
  moxie::Parameters<B> p(backend);
  moxie::test::add(p, "head/kernel", {1});
  moxie::test::add(p, "body/kernel", {1});
  moxie::test::add(p, "body/bias", {1});
  p.initialize(0);
  const Decay decay{{{"head/kernel", 3.0}, {"kernel", 0.03}}};
  // Without a gradient, only decay moves anything: p (1 - lr rate).
  const auto check = [&](const auto& optimizer, auto state) {
    moxie::test::to_device(backend, p.edit(), {2, 2, 2});
    p.zero_gradients();
    optimizer.update(p, p.range(), state, 0.1);
    const auto v = moxie::test::to_host(backend, p.values());
    CHECK(static_cast<double>(v[0]) == doctest::Approx(1.4));
    CHECK(static_cast<double>(v[1]) == doctest::Approx(1.994));
    CHECK(v[2] == 2);
  };
  const moxie::AdamW adam{.decay = decay};
  check(adam, moxie::AdamW::State<B>(adam, p));
  const moxie::Sgd sgd{.decay = decay};
  check(sgd, moxie::Sgd::State<B>(sgd, p));
}
