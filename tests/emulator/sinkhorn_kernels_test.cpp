// Sinkhorn for a group in a block, against the generic form.
#include <cmath>
#include <limits>
#include <vector>

#include "emulator/routing_backends.hpp"
#include "moxie/ops/sinkhorn.hpp"
#include "moxie/ops/sinkhorn_backward.hpp"

namespace sinkhorn_kernels_test {

using namespace moxie;
using testing::detail::Draw;
using Ints = std::vector<std::int32_t>;

namespace {

template <class B>
constexpr bool twins =
    Accelerates<Sinkhorn, B, ConstMatrix<B>, ConstIntVector<B>, SinkhornOptions, SinkhornMemory<B>,
                Matrix<B>>&& Accelerates<SinkhornBackward, B, ConstMatrix<B>, ConstMatrix<B>, Index,
                                         double, SinkhornBackwardMemory<B>, Matrix<B>>;
static_assert(twins<test::EmulatedBackend<float>> && twins<test::EmulatedBackend<double>>);
static_assert(!twins<ThrustHostBackend<float>>);

struct Case {
  Index tokens, experts;
  SinkhornOptions options;
  std::vector<double> logits;
  Ints mask{};
};

template <class B>
std::vector<typename B::Scalar> plan_of(B& backend, const Case& c) {
  using T = typename B::Scalar;
  const test::Buffer<T, B> logits(backend, test::scalars<T>(c.logits));
  const test::Buffer<T, B> plan(backend, logits.size(), T(77));
  const test::Buffer<std::int32_t, B> mask(backend, c.mask);
  Arena<B> measured(Gradients::all);
  SinkhornMemory<B> memory;
  memory.bind(measured, c.tokens, c.experts, c.options.group);
  const test::Buffer<std::byte, B> bytes(backend, static_cast<Index>(measured.peak()),
                                         std::byte{0x7f});
  Arena<B> arena(Gradients::all, bytes.data(), measured.peak());
  memory.bind(arena, c.tokens, c.experts, c.options.group);
  sinkhorn(backend, ConstMatrix<B>(logits.view(c.tokens, c.experts)), test::view_of(mask),
           c.options, memory, plan.view(c.tokens, c.experts));
  return plan.to_vector();
}

/// The gradient of <plan, d_plan> for the plan of a case, added to ones.
template <class B>
std::vector<typename B::Scalar> gradient_of(B& backend, const Case& c,
                                            const std::vector<double>& plan_in,
                                            const std::vector<double>& d_plan_in) {
  using T = typename B::Scalar;
  const test::Buffer<T, B> plan(backend, test::scalars<T>(plan_in));
  const test::Buffer<T, B> d_plan(backend, test::scalars<T>(d_plan_in));
  const test::Buffer<T, B> d_logits(backend, plan.size(), T(1));
  Arena<B> measured(Gradients::all);
  SinkhornBackwardMemory<B> memory;
  memory.bind(measured, c.tokens, c.experts, c.options.group);
  const test::Buffer<std::byte, B> bytes(backend, static_cast<Index>(measured.peak()),
                                         std::byte{0x7f});
  Arena<B> arena(Gradients::all, bytes.data(), measured.peak());
  memory.bind(arena, c.tokens, c.experts, c.options.group);
  sinkhorn_backward(backend, ConstMatrix<B>(plan.view(c.tokens, c.experts)),
                    ConstMatrix<B>(d_plan.view(c.tokens, c.experts)), c.options.group,
                    c.options.epsilon, memory, d_logits.view(c.tokens, c.experts));
  return d_logits.to_vector();
}
template <class T>
void check_gradient(const Case& c, const std::vector<double>& d_plan, std::uint64_t launches = 1) {
  CAPTURE(c.tokens);
  CAPTURE(c.experts);
  ThrustHostBackend<double> exact;
  const auto plan = plan_of(exact, c);
  const auto wanted = gradient_of(exact, c, plan, d_plan);
  for (const std::uint64_t schedule : test::schedules) {
    auto backend = test::emulated<T>(schedule);
    const auto got = gradient_of(backend, c, plan, d_plan);
    CHECK(backend.leaf().launches() == launches);
    test::check_near(got, wanted, sizeof(T) == sizeof(float) ? 2e-4 : 1e-11);
  }
}

template <class T>
void check_plan(const Case& c, std::uint64_t launches = 1) {
  CAPTURE(c.tokens);
  CAPTURE(c.experts);
  ThrustHostBackend<T> host;
  const auto wanted = plan_of(host, c);
  for (const std::uint64_t schedule : test::schedules) {
    auto backend = test::emulated<T>(schedule);
    const auto got = plan_of(backend, c);
    CHECK(backend.leaf().launches() == launches);
    bool equal = true;
    for (std::size_t i = 0; i < got.size(); ++i)
      equal =
          equal && (std::isnan(wanted[i]) ? std::isnan(got[i])
                                          : testing::near(static_cast<double>(got[i]),
                                                          static_cast<double>(wanted[i]), 1e-6));
    CHECK(equal);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("sinkhorn kernel: plans are those of the generic form for any shape of a group",
                   T, float, double) {
  Draw draw(51);
  for (const Index experts : {1, 8, 17, 40})
    for (const Index group : {1, 64, 65, 140}) {
      const Index groups = group > 64 ? 1 : 2;
      check_plan<T>({group * groups,
                     experts,
                     {.group = group, .epsilon = 0.5, .iterations = 3},
                     draw.normals(group * groups * experts)});
    }
}

TEST_CASE_TEMPLATE("sinkhorn kernel: masked tokens have rows of 0 and no part in the shares", T,
                   float, double) {
  Draw draw(52);
  const Index tokens = 3 * 70;
  Case c{tokens,
         6,
         {.group = 70, .epsilon = 1, .iterations = 4},
         draw.normals(tokens * 6),
         test::random_mask(draw, tokens, 3)};
  for (std::size_t t = 70; t < 140; ++t) c.mask[t] = 0;   // a group without tokens
  for (std::size_t t = 140; t < 204; ++t) c.mask[t] = 0;  // a chunk without
  check_plan<T>(c);
  auto backend = test::emulated<T>(1);
  const auto plan = plan_of(backend, c);
  for (std::size_t t = 0; t < 210; ++t) {
    double row = 0;
    for (std::size_t e = 0; e < 6; ++e) row += static_cast<double>(plan[t * 6 + e]);
    CHECK(testing::near(row, c.mask[t] == 0 ? 0.0 : 1.0, 1e-5));
  }
}

TEST_CASE_TEMPLATE("sinkhorn kernel: groups stop at the tolerance, each for itself", T, float,
                   double) {
  Draw draw(53);
  Case c{4 * 40,
         5,
         {.group = 40, .epsilon = 0.7, .iterations = 30, .tolerance = 1e-3},
         draw.normals(4 * 40 * 5)};
  for (std::size_t i = 40 * 5; i < 2 * 40 * 5; ++i) c.logits[i] = 0;            // done at once
  for (std::size_t i = 3 * 40 * 5; i < c.logits.size(); ++i) c.logits[i] *= 8;  // takes long
  check_plan<T>(c);
}

TEST_CASE_TEMPLATE("sinkhorn kernel: rows that are all but empty, large logits and NaN", T, float,
                   double) {
  Draw draw(54);
  Case c{2 * 33, 7, {.group = 33, .epsilon = 0.05, .iterations = 5}, draw.normals(2 * 33 * 7)};
  for (std::size_t i = 0; i < 33 * 7; ++i) c.logits[i] = c.logits[i] * 1e3 + 1e4;
  check_plan<T>(c);
  c.logits[33 * 7 + 12] = std::numeric_limits<double>::quiet_NaN();
  check_plan<T>(c);
}

TEST_CASE("sinkhorn kernel: a group too large for a block keeps the generic form") {
  Draw draw(55);
  check_plan<float>({70, 1000, {.group = 70, .iterations = 1}, draw.normals(70 * 1000)}, 0);
  check_plan<float>({0, 4, {.group = 8}, {}}, 0);
}

TEST_CASE_TEMPLATE("sinkhorn kernel: gradients are those of the generic form in double", T, float,
                   double) {
  Draw draw(56);
  for (const Index experts : {1, 5, 33})
    for (const Index group : {1, 70}) {
      Case c{group * 2,
             experts,
             {.group = group, .epsilon = 0.8, .iterations = 40},
             draw.normals(group * 2 * experts),
             test::random_mask(draw, group * 2, 4)};
      check_gradient<T>(c, draw.normals(group * 2 * experts));
    }
}

TEST_CASE_TEMPLATE("sinkhorn kernel: gradients where experts share no token", T, float, double) {
  Draw draw(57);
  Case c{40, 4, {.group = 40, .epsilon = 1e-3, .iterations = 5}, std::vector<double>(40 * 4, 0)};
  for (std::size_t t = 0; t < 40; ++t) c.logits[t * 4 + t % 4] = 10;
  check_gradient<T>(c, draw.normals(40 * 4));
}

TEST_CASE("sinkhorn kernel: more experts than a block solves for keep the generic form") {
  Draw draw(58);
  const Case c{4, 160, {.group = 4, .epsilon = 1, .iterations = 5}, draw.normals(4 * 160)};
  check_gradient<float>(c, draw.normals(4 * 160), 0);
}

}  // namespace sinkhorn_kernels_test
