// The bytes of a layer's tape are those of the formula in docs/performance.md, each of them.
#include "support/tape_formula.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "moxie/backend/cpu.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/runtime/any_capacity.hpp"
#include "support/kernels.hpp"

using namespace moxie;
using test::TapeFormula;
using test::TapeShape;

namespace {

using B = CpuBackend<float>;
constexpr Gradients every_gradients[] = {Gradients::none, Gradients::input, Gradients::all};

template <class R>
auto layer_of(B& backend, const TapeShape& s, const R& router, const AnyCapacity& capacity) {
  return MoeLayer(backend,
                  MoeShape{.width = s.width, .experts = s.experts, .group = s.group, .seed = 7},
                  router, capacity, FeedForward<Gelu>{.hidden = s.hidden, .output = s.output});
}

/// `s.capacity` is what `capacity` gives for its group.
void check(TapeShape s, const AnyCapacity& capacity) {
  ThreadPool pool(3);
  B alone;
  B three(pool);
  for (B* const backend : {&alone, &three}) {
    s.workers = backend->workers();
    const auto layer = layer_of(*backend, s, TopKRouter{.k = s.choices}, capacity);
    for (const Gradients gradients : every_gradients) {
      CAPTURE(s.tokens);
      CAPTURE(s.hidden);
      CAPTURE(s.workers);
      CAPTURE(static_cast<int>(gradients));
      const TapeFormula wanted(s, gradients);
      CHECK(tape_bytes(layer, s.tokens, gradients) == wanted.total());
      CHECK(layer.make_tape(s.tokens, gradients).bytes() == wanted.total());

      Arena<B> arena(gradients);  // of three layers only what is kept and saved adds up
      typename decltype(layer)::Tape tape;
      for (int i = 0; i < 3; ++i) layer.bind(arena, s.tokens, tape);
      CHECK(arena.peak() == wanted.total(3));
    }
  }
}

}  // namespace

TEST_CASE("a tape without drops takes the bytes that are documented") {
  const std::vector<TapeShape> shapes{
      {.tokens = 0, .experts = 4, .choices = 2, .width = 5, .hidden = 6},
      {.tokens = 1, .experts = 1, .choices = 1, .width = 1, .hidden = 1},
      {.tokens = 64, .experts = 8, .choices = 2, .width = 32, .hidden = 64},
      // rows of H are 1 KiB
      {.tokens = 300, .experts = 5, .choices = 5, .width = 17, .hidden = 256, .output = 9},
      // not whole groups
      {.tokens = 100, .experts = 70, .choices = 3, .width = 8, .hidden = 512, .group = 24},
      // more rows than a worker packs at a time
      {.tokens = 450, .experts = 3, .choices = 2, .width = 264, .hidden = 300, .output = 40},
      // rows enough that weights are packed before a pass, and nearly
      {.tokens = 1024, .experts = 2, .choices = 1, .width = 20, .hidden = 36, .output = 7},
      {.tokens = 1023, .experts = 2, .choices = 1, .width = 20, .hidden = 36, .output = 7},
      // more than 1024 x 1024 logits
      {.tokens = 70000, .experts = 16, .choices = 1, .width = 1, .hidden = 1}};
  for (const TapeShape& s : shapes) check(s, Dropless{});
}

TEST_CASE("a tape of a layer that drops takes the bytes that are documented") {
  TapeShape s{.tokens = 240, .experts = 6, .choices = 2, .width = 12, .hidden = 40, .group = 60};
  s.capacity = 15;  // 60 * 2 * 0.75 / 6
  check(s, CapacityFactor{.factor = 0.75});
  s.capacity = 25;
  check(s, CapacityFactor{.factor = 1.25});
  s.capacity = 200;  // more than a group has
  check(s, FixedCapacity{200});
  // So few rows that the maps take more than the experts.
  s = {.tokens = 512, .experts = 2, .choices = 2, .width = 4, .hidden = 4, .capacity = 1};
  check(s, FixedCapacity{1});
  s = {.tokens = 900, .experts = 2, .choices = 2, .width = 64, .hidden = 4, .capacity = 40};
  check(s, FixedCapacity{40});
}

TEST_CASE("noise adds two matrices of the tokens and one gradient") {
  B backend;
  const TapeShape s{.tokens = 90, .experts = 7, .choices = 2, .width = 12, .hidden = 24};
  const auto layer =
      layer_of(backend, s, WithNoise{GaussianNoise{}, TopKRouter{.k = 2}}, Dropless{});
  const std::size_t matrix = TapeFormula::bytes(s.tokens * s.experts);
  for (const Gradients gradients : every_gradients)
    CHECK(tape_bytes(layer, s.tokens, gradients) ==
          TapeFormula(s, gradients).total() + (gradients == Gradients::none ? 2 : 3) * matrix);
}

TEST_CASE("the formula gives what one computes from the page by hand") {
  const TapeShape s{.tokens = 4096, .experts = 8, .choices = 2, .width = 512, .hidden = 2048};
  // R = 8192 and H' = 2064; all sizes are whole blocks of 256 bytes but E + 1 numbers.
  const TapeFormula all(s, Gradients::all);
  CHECK(all.kept == 4 * (2 * 32768 + 4 * 8192 + 2 * 8192) + 256 + 256);
  CHECK(all.saved == 4 * 8192 * (512 + 2 * 2064));
  CHECK(all.scratch ==
        4 * (8192 * (1 + 512 + 2064) + 2 * 32768 + 8192) + 1064960 + 8 * 2 * 4 * 512 * 2048);
  CHECK(all.total() == 305414656);
  const TapeFormula none(s, Gradients::none);
  CHECK(none.saved == 0);
  CHECK(none.scratch == 4 * 8192 * (512 + 2064) + 384 * 2048);
  CHECK(none.total() == 85656064);
}
