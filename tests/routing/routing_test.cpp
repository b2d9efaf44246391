#include <doctest/doctest.h>

#include "moxie/backend/cpu.hpp"
#include "moxie/routing/pass.hpp"
#include "moxie/testing/sparse_fixture.hpp"

namespace routing_test {

using namespace moxie;
using B = CpuBackend<float>;

TEST_CASE("a pass is told apart from the one it is made of") {
  const std::vector<Routes<B>> routes(2, Routes<B>{.rank = 1});
  const Pass<B> pass{.mode = Mode::eval, .seed = 3, .step = 4};
  const Pass<B> other = pass.with(routes).without_regularizers().at_layer(1);
  CHECK(other.routes.size() == 2);
  CHECK_FALSE(other.regularizers);
  CHECK(other.moe_layer == 1);
  CHECK(other.mode == Mode::eval);
  CHECK(other.seed == 3);
  CHECK(other.step == 4);
  CHECK(pass.routes.empty());
  CHECK(pass.regularizers);
  CHECK(pass.moe_layer == 0);
}

TEST_CASE("routes are empty without choices and without a rank") {
  std::int32_t choice = 0;
  CHECK(Routes<B>{}.empty());
  CHECK_FALSE(Routes<B>{.rank = 0}.empty());
  CHECK_FALSE(Routes<B>{.choice = {&choice, 1, 1}}.empty());
}

TEST_CASE("a context draws by seed, step, layer and purpose") {
  const Context<B> here{.seed = 1, .step = 2, .layer = 3};
  CHECK(here.random("router noise") == Random(1, 2, stream_id("router noise", 3)));
  CHECK_FALSE(here.random("router noise") == here.random("dropout"));
  CHECK_FALSE(here.random("router noise") ==
              Context<B>{.seed = 1, .step = 2, .layer = 4}.random("router noise"));
}

TEST_CASE("a routing shape counts groups") {
  CHECK(RoutingShape{.tokens = 12, .group = 4}.groups() == 3);
  CHECK(RoutingShape{}.groups() == 0);
}

TEST_CASE("without noise the noisy tensors are the clean ones") {
  B backend;
  testing::SparseFixture<B> f(backend, {.tokens = 2, .experts = 3, .choices = 2}, {.noisy = true});
  CHECK(f.routing.noisy());
  CHECK(f.routing.noisy_probs.data != f.routing.probs.data);
  f.set_mode(Mode::eval);
  CHECK_FALSE(f.routing.noisy());
  CHECK(f.routing.noisy_probs.data == f.routing.probs.data);
  CHECK(f.routing.noisy_logits.rows == 2);
  testing::SparseFixture<B> plain(backend, {.tokens = 2, .experts = 3, .choices = 2});
  CHECK_FALSE(plain.routing.noisy());
}

TEST_CASE("assignments of a token are its K entries, or its part of a ragged list") {
  B backend;
  testing::SparseFixture<B> f(backend, {.tokens = 4, .experts = 3, .choices = 2});
  CHECK(f.routing.begin(3) == 6);
  CHECK(f.routing.end(3) == 8);
  CHECK(f.routing.choice.rows == 4);

  testing::SparseFixture<B> ragged(
      backend, {.tokens = 2, .experts = 3, .choices = 1, .assignments = 5}, {.ragged = true});
  CHECK(ragged.routing.choice.rows == 5);
  CHECK(ragged.routing.choice.cols == 1);
  CHECK(ragged.routing.first.size == 3);
  ragged.routing.first[0] = 0;
  ragged.routing.first[1] = 3;
  ragged.routing.first[2] = 4;
  CHECK(ragged.routing.begin(1) == 3);
  CHECK(ragged.routing.end(1) == 4);
}

TEST_CASE("routing tensors serve passes smaller than what was bound") {
  B backend;
  testing::SparseFixture<B> f(backend, {.tokens = 6, .experts = 3, .choices = 2});
  f.routing.resize({.tokens = 4, .experts = 3, .choices = 2, .group = 4, .rows = 7}, false);
  CHECK(f.routing.logits.rows == 4);
  CHECK(f.routing.choice.rows == 4);
  CHECK(f.routing.token.size == 7);
  CHECK(f.routing.bound_rows() == 12);
}

}  // namespace routing_test
