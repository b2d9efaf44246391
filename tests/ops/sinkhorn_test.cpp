#include <doctest/doctest.h>

#include "moxie/backend/thread_pool.hpp"
#include "moxie/ops/marginal_error.hpp"
#include "moxie/ops/sinkhorn.hpp"
#include "moxie/ops/sinkhorn_backward.hpp"
#include "moxie/testing/law_report.hpp"
#include "support/backends.hpp"
#include "support/vectors.hpp"

using namespace moxie;
using testing::detail::all_near;
using testing::detail::Draw;
using Doubles = std::vector<double>;
using Ints = std::vector<std::int32_t>;

namespace {

template <class B>
using Scalars = std::vector<typename B::Scalar>;

template <class B>
Scalars<B> scalars(const Doubles& v) {
  Scalars<B> out;
  for (const double x : v) out.push_back(static_cast<typename B::Scalar>(x));
  return out;
}
template <class T>
Doubles doubles(const std::vector<T>& v) {
  return {v.begin(), v.end()};
}
template <class M, class B, class F>
auto with_memory(B& backend, Index tokens, Index experts, Index group, const F& f) {
  Arena<B> measured(Gradients::all);
  M().bind(measured, tokens, experts, group);
  test::Buffer<std::byte, B> bytes(backend, static_cast<Index>(measured.peak()), std::byte{0x7f});
  Arena<B> arena(Gradients::all, bytes.data(), measured.peak());
  M memory;
  memory.bind(arena, tokens, experts, group);
  return f(memory);
}

template <class B>
Doubles plan_of(B& backend, const Doubles& logits, Index experts, SinkhornOptions options,
                const Ints& mask = {}, bool generic = false) {
  using T = typename B::Scalar;
  const auto tokens = static_cast<Index>(logits.size()) / experts;
  if (options.group == 0) options.group = tokens;
  test::Buffer<T, B> in(backend, scalars<B>(logits));
  test::Buffer<T, B> out(backend, tokens * experts, T(77));
  test::Buffer<std::int32_t, B> kept(backend, mask);
  with_memory<SinkhornMemory<B>>(
      backend, tokens, experts, options.group, [&](const SinkhornMemory<B>& memory) {
        const ConstMatrix<B> z(in.view(tokens, experts));
        const auto counts = mask.empty() ? ConstIntVector<B>() : ConstIntVector<B>(kept.view());
        if (generic) {
          Sinkhorn::generic(backend, z, counts, options, memory, out.view(tokens, experts));
        } else {
          sinkhorn(backend, z, counts, options, memory, out.view(tokens, experts));
        }
        return 0;
      });
  return doubles(out.to_vector());
}

template <class B>
Doubles gradient_of(B& backend, const Doubles& plan, const Doubles& d_plan, Index experts,
                    Index group, double epsilon = 1) {
  using T = typename B::Scalar;
  const auto tokens = static_cast<Index>(plan.size()) / experts;
  test::Buffer<T, B> p(backend, scalars<B>(plan));
  test::Buffer<T, B> d(backend, scalars<B>(d_plan));
  test::Buffer<T, B> out(backend, tokens * experts, T(0));
  with_memory<SinkhornBackwardMemory<B>>(
      backend, tokens, experts, group, [&](const SinkhornBackwardMemory<B>& memory) {
        sinkhorn_backward(backend, ConstMatrix<B>(p.view(tokens, experts)),
                          ConstMatrix<B>(d.view(tokens, experts)), group, epsilon, memory,
                          out.view(tokens, experts));
        return 0;
      });
  return doubles(out.to_vector());
}

template <class B>
Doubles errors_of(B& backend, const Doubles& plan, Index experts, Index group,
                  const Ints& mask = {}) {
  using T = typename B::Scalar;
  const auto tokens = static_cast<Index>(plan.size()) / experts;
  test::Buffer<T, B> p(backend, scalars<B>(plan));
  test::Buffer<T, B> load(backend, tokens / group * experts, T(77));
  test::Buffer<T, B> gap(backend, tokens, T(77));
  test::Buffer<T, B> error(backend, tokens / group, T(77));
  test::Buffer<std::int32_t, B> kept(backend, mask);
  marginal_error(backend, ConstMatrix<B>(p.view(tokens, experts)),
                 mask.empty() ? ConstIntVector<B>() : ConstIntVector<B>(kept.view()), group,
                 load.view(tokens / group, experts), gap.view(), error.view());
  return doubles(error.to_vector());
}

/// The definition for one group, in double; tokens that are masked are skipped.
Doubles oracle(const Doubles& logits, Index experts, Index iterations, double epsilon,
               const Ints& mask = {}) {
  const auto at = [](Index i) { return static_cast<std::size_t>(i); };
  const auto tokens = static_cast<Index>(logits.size()) / experts;
  std::vector<Index> rows;
  for (Index t = 0; t < tokens; ++t)
    if (mask.empty() || mask[at(t)] != 0) rows.push_back(t);
  Doubles plan(logits.size(), 0.0);
  if (rows.empty()) return plan;
  Doubles f(at(tokens), 0.0);
  Doubles g(at(experts), 0.0);
  const auto z = [&](Index t, Index e) { return logits[at(t * experts + e)] / epsilon; };
  const auto log_sum = [](const Doubles& v) {
    const double top = *std::max_element(v.begin(), v.end());
    double sum = 0;
    for (const double x : v) sum += std::exp(x - top);
    return top + std::log(sum);
  };
  for (Index i = 0; i < iterations; ++i) {
    for (Index e = 0; e < experts; ++e) {
      Doubles v;
      for (const Index t : rows) v.push_back(z(t, e) + f[at(t)]);
      g[at(e)] =
          std::log(static_cast<double>(rows.size()) / static_cast<double>(experts)) - log_sum(v);
    }
    for (const Index t : rows) {
      Doubles v;
      for (Index e = 0; e < experts; ++e) v.push_back(z(t, e) + g[at(e)]);
      f[at(t)] = -log_sum(v);
    }
  }
  for (const Index t : rows)
    for (Index e = 0; e < experts; ++e)
      plan[at(t * experts + e)] = std::exp(z(t, e) + f[at(t)] + g[at(e)]);
  return plan;
}

template <class B>
void check_near(const Doubles& got, const Doubles& wanted) {
  CHECK(all_near(got, wanted, sizeof(typename B::Scalar) == 8 ? 1e-9 : 1e-4));
}

}  // namespace

TEST_CASE_TEMPLATE("hand-computed plans", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const double a = std::log(4.0);
  check_near<B>(plan_of(backend, {a, 0, 0, 0}, 2, {.iterations = 1}),
                {8.0 / 13, 5.0 / 13, 2.0 / 7, 5.0 / 7});
  check_near<B>(plan_of(backend, {a, 0, 0, 0}, 2, {}), {2.0 / 3, 1.0 / 3, 1.0 / 3, 2.0 / 3});
  check_near<B>(plan_of(backend, {a, 0, 0, 0, 0, 0, 0, 0}, 2, {.iterations = 1}),
                {16.0 / 23, 7.0 / 23, 4.0 / 11, 7.0 / 11, 4.0 / 11, 7.0 / 11, 4.0 / 11, 7.0 / 11});
  for (const double shift : {0.0, 1000.0, -1000.0}) {  // changes nothing
    const Doubles plan =
        plan_of(backend, {a + shift, shift, shift, shift, shift, shift, shift, shift}, 2, {});
    const Doubles wanted{.742666, .257334, .419111, .580889, .419111, .580889, .419111, .580889};
    CHECK(all_near(plan, wanted, sizeof(typename B::Scalar) == 8 ? 1e-6 : 1e-4));
  }
  check_near<B>(plan_of(backend, Doubles(20, 3.0), 4, {}), Doubles(20, .25));
}

TEST_CASE_TEMPLATE("the golden vectors of the plan and its gradient", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  for (const char* name : {"08_sinkhorn_token_choice", "09_sinkhorn_expert_choice"}) {
    const nlohmann::json v = test::read_vector(name);
    const Doubles logits = test::flat<double>(v["inputs"]["logits"]);
    const Index iterations = v["inputs"]["iters"];
    check_near<B>(plan_of(backend, logits, 3, {.iterations = iterations}),
                  test::flat<double>(v["expected"]["plan"]));
    if (v["expected"].contains("plan_1_iter"))
      check_near<B>(plan_of(backend, logits, 3, {.iterations = 1}),
                    test::flat<double>(v["expected"]["plan_1_iter"]));
  }
  const nlohmann::json v = test::read_vector("23_sinkhorn_gradient");
  const Doubles plan =
      plan_of(backend, test::flat<double>(v["inputs"]["sim"]), 3, {.iterations = 2000});
  check_near<B>(plan, test::flat<double>(v["expected"]["plan"]));
  check_near<B>(gradient_of(backend, plan, test::flat<double>(v["inputs"]["r"]), 3, 4),
                test::flat<double>(v["expected"]["grad"]));
}

TEST_CASE_TEMPLATE("the plan is that of the definition, with groups, padding and far logits", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  Draw draw(1);
  for (int i = 0; i < 400; ++i) {
    const Index group = i % 20 == 0 ? draw.from(60, 150) : draw.from(1, 9);
    const Index groups = draw.from(1, 3);
    const Index experts = draw.from(1, 19);
    const double epsilon = draw.chance(.5) ? 1 : .25;
    const double scale = draw.chance(.7) ? 2 : 60;
    const Index iterations = draw.from(1, 25);
    Doubles logits = draw.normals(group * groups * experts);
    for (double& v : logits) v = std::round(v * scale * 8) / 8;  // exact in float
    Ints mask;
    if (draw.chance(.4))
      for (Index t = 0; t < group * groups; ++t) mask.push_back(draw.chance(.6) ? 1 : 0);
    const Doubles got =
        plan_of(backend, logits, experts,
                {.group = group, .epsilon = epsilon, .iterations = iterations}, mask);
    Doubles wanted;
    const auto part = [&](auto& v, Index g, Index width) {
      return std::decay_t<decltype(v)>(v.begin() + g * group * width,
                                       v.begin() + (g + 1) * group * width);
    };
    for (Index g = 0; g < groups; ++g)
      for (const double v : oracle(part(logits, g, experts), experts, iterations, epsilon,
                                   mask.empty() ? mask : part(mask, g, 1)))
        wanted.push_back(v);
    // In float, potentials of hundreds leave few digits behind the point.
    const double tolerance = sizeof(typename B::Scalar) == 8 ? 1e-9 : scale > 2 ? 5e-3 : 1e-4;
    REQUIRE(all_near(got, wanted, tolerance));
    for (Index t = 0; t < group * groups; ++t) {
      double sum = 0;
      for (Index e = 0; e < experts; ++e) sum += got[static_cast<std::size_t>(t * experts + e)];
      const bool padding = !mask.empty() && mask[static_cast<std::size_t>(t)] == 0;
      CHECK(sum == doctest::Approx(padding ? 0 : 1).epsilon(tolerance));
    }
  }
}

TEST_CASE_TEMPLATE("permuting tokens or experts permutes the plan", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  Draw draw(2);
  const Doubles logits = draw.normals(7 * 5);
  const std::vector<Index> row = draw.permutation(7);
  const std::vector<Index> col = draw.permutation(5);
  const auto permuted = [&](const Doubles& m) {
    Doubles out;
    for (const Index t : row)
      for (const Index e : col) out.push_back(m[static_cast<std::size_t>(t * 5 + e)]);
    return out;
  };
  CHECK(all_near(plan_of(backend, permuted(logits), 5, {}),
                 permuted(plan_of(backend, logits, 5, {})),
                 testing::tolerance<typename B::Scalar>));
}

TEST_CASE_TEMPLATE("a tolerance stops each group by itself, and the cap holds", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  // balanced from the start; converges soon; takes long
  const Doubles logits{0, 0, 0, 0, 1, 0, 0, 1.5, 9, 0, 8, 0};
  const double tolerance = 1e-3;
  const auto run = [&](Index iterations, double stop) {
    return plan_of(backend, logits, 2, {.group = 2, .iterations = iterations, .tolerance = stop});
  };
  const Doubles got = run(1000, tolerance);
  for (const double e : errors_of(backend, got, 2, 2)) CHECK(e <= tolerance * 1.01);
  for (Index g = 0; g < 3; ++g) {  // the plan of the first iteration that is good enough
    Index n = 1;
    while (errors_of(backend, run(n, 0), 2, 2)[static_cast<std::size_t>(g)] > tolerance) ++n;
    if (g == 0) CHECK(n == 1);
    if (g == 2) CHECK(n > 2);
    const Doubles wanted = run(n, 0);
    for (auto i = static_cast<std::size_t>(4 * g); i < static_cast<std::size_t>(4 * g + 4); ++i)
      CHECK(got[i] == doctest::Approx(wanted[i]).epsilon(1e-6));
  }
  CHECK(run(2, 1e-30) == run(2, 0));
}

TEST_CASE_TEMPLATE("the marginal error is the worst expert's", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  // b = 2: column sums 2.5, 1.5; with a masked token b = 1, sums 1.5, .5; no tokens: 0
  const Doubles plan{1, 0, .5, .5, .5, .5, .5, .5, 1, 0, .5, .5,
                     0, 0, 0,  0,  0,  0,  0,  0,  0, 0, 0,  0};
  const Doubles got = errors_of(backend, plan, 2, 4, {1, 1, 1, 1, 1, 3, 0, 0, 0, 0, 0, 0});
  CHECK(all_near(got, Doubles{.25, .5, 0}, 1e-6));
  CHECK(errors_of(backend, {1, 0, 1, 0}, 2, 2) == Doubles{1});
  // Loads of 1 each, but tokens that give 0.75 and 1.25; the third is padding.
  CHECK(errors_of(backend, {.5, .25, .5, .75}, 2, 2) == Doubles{.25});
  CHECK(errors_of(backend, {.5, .25, .5, .75, 0, 0}, 2, 3, {1, 1, 0}) == Doubles{.25});
}

TEST_CASE_TEMPLATE("the implicit gradient agrees with central differences at convergence", B,
                   MOXIE_TEST_BACKENDS) {
  if constexpr (sizeof(typename B::Scalar) == 8) {
    B backend = test::make_backend<B>();
    Draw draw(3);
    for (int i = 0; i < 25; ++i) {
      const Index group = draw.from(1, 6);
      const Index tokens = group * draw.from(1, 2);
      const Index experts = draw.from(1, 6);
      const SinkhornOptions options{
          .group = group, .epsilon = draw.chance(.5) ? 1 : .5, .iterations = 1500};
      Doubles logits = draw.normals(tokens * experts);
      const Doubles r = draw.normals(tokens * experts);
      Ints mask;
      if (draw.chance(.4))
        for (Index t = 0; t < tokens; ++t) mask.push_back(draw.chance(.7) ? 1 : 0);
      const Doubles plan = plan_of(backend, logits, experts, options, mask);
      const Doubles got = gradient_of(backend, plan, r, experts, group, options.epsilon);
      for (std::size_t j = 0; j < logits.size(); ++j) {
        const double old = logits[j];
        logits[j] = old + 1e-5;
        const double up = testing::detail::dot(r, plan_of(backend, logits, experts, options, mask));
        logits[j] = old - 1e-5;
        const double down =
            testing::detail::dot(r, plan_of(backend, logits, experts, options, mask));
        logits[j] = old;
        REQUIRE(testing::near(got[j], (up - down) / 2e-5, 1e-7));
      }
    }
  }
}

TEST_CASE_TEMPLATE("the implicit gradient solves its system where tokens are all but assigned", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  // Expert 2 shares nothing with the others, expert 0 and 1 next to nothing: finite, and right for
  // the pair. For [[1-a, a], [a, 1-a]] and R = [[1, 0], [0, 0]], with u = a (1 - a): the gradient is
  // u / 2 * [[1, -1], [-1, 1]].
  for (const double a : {.25, 1e-6, 1e-12}) {
    const Doubles got = gradient_of(backend, {1 - a, a, 0, a, 1 - a, 0, 0, 0, 1},
                                    {1, 0, 0, 0, 0, 0, 0, 0, 5}, 3, 3);
    const double u = a * (1 - a) / 2;
    const Doubles wanted{u, -u, 0, -u, u, 0, 0, 0, 0};
    for (std::size_t i = 0; i < 9; ++i)
      CHECK(std::fabs(got[i] - wanted[i]) <=
            1e-6 * u + (sizeof(typename B::Scalar) == 8 ? 1e-15 : 1e-6));
  }
}

TEST_CASE_TEMPLATE("plan and gradient have the same bits on any number of threads", T, float,
                   double) {
  using B = CpuBackend<T>;
  const Doubles logits = Draw(4).normals(600 * 11);
  const Doubles r = Draw(5).normals(600 * 11);
  const auto run = [&](B backend) {
    const Doubles plan = plan_of(backend, logits, 11, {.group = 300, .tolerance = 1e-3});
    return std::pair{plan, gradient_of(backend, plan, r, 11, 300)};
  };
  const auto alone = run(B());
  for (const int threads : {2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(run(B(pool)) == alone);
  }
}

TEST_CASE_TEMPLATE("no tokens, no plan", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  CHECK(plan_of(backend, {}, 3, {}).empty());
  CHECK(gradient_of(backend, {}, {}, 3, 0).empty());
}

TEST_CASE_TEMPLATE("the CPU's own Sinkhorn gives the plan of the generic one", B,
                   CpuBackend<double>, CpuBackend<float>) {
  B backend;
  Draw draw(11);
  const double near = sizeof(typename B::Scalar) == sizeof(double) ? 1e-10 : 2e-4;
  for (const Index experts : {1, 8, 29})
    for (const double width : {1.0, 60.0})  // 60: a chunk may have no token at all for an expert
      for (const bool masked : {false, true})
        for (const double tolerance : {0.0, 0.05}) {
          constexpr Index tokens = 150;
          Doubles logits;
          for (Index i = 0; i < tokens * experts; ++i) logits.push_back(width * draw.normal());
          Ints mask;
          for (Index t = 0; masked && t < tokens; ++t) mask.push_back(t < 70 || t % 3 == 0 ? 0 : 1);
          for (const Index group : {tokens, tokens / 3})
            for (const Index iterations : {1, 5}) {
              const SinkhornOptions options{
                  .group = group, .iterations = iterations, .tolerance = tolerance};
              const auto own = plan_of(backend, logits, experts, options, mask);
              const auto wanted = plan_of(backend, logits, experts, options, mask, true);
              double worst = 0;
              for (std::size_t i = 0; i < own.size(); ++i)
                worst = std::max(worst, std::fabs(own[i] - wanted[i]));
              CHECK(worst < near);
            }
        }
}
