#include <doctest/doctest.h>

#include "moxie/backend/thread_pool.hpp"
#include "moxie/ops/sparse_transport_experts.hpp"
#include "moxie/ops/sparse_transport_tokens.hpp"
#include "moxie/testing/law_report.hpp"
#include "support/backends.hpp"
#include "support/numbers.hpp"
#include "support/vectors.hpp"

using namespace moxie;
using test::to_size;
using testing::detail::all_near;
using testing::detail::Draw;
using Doubles = std::vector<double>;
using Ints = std::vector<std::int32_t>;
using Options = SparseTransportOptions;

namespace {

enum class Side { experts, tokens };

template <Side side, class B>
Doubles plan_of(B& backend, const Doubles& similarity, Index experts, Options options,
                const Ints& mask = {}) {
  using T = typename B::Scalar;
  using M =
      std::conditional_t<side == Side::experts, SparseExpertsMemory<B>, SparseTokensMemory<B>>;
  const auto tokens = static_cast<Index>(similarity.size()) / experts;
  if (options.group == 0) options.group = tokens;
  std::vector<T> values;
  for (const double v : similarity) values.push_back(static_cast<T>(v));
  test::Buffer<T, B> in(backend, values);
  test::Buffer<T, B> out(backend, tokens * experts, T(77));
  test::Buffer<std::int32_t, B> kept(backend, mask);
  Arena<B> measured(Gradients::all);
  M().bind(measured, tokens, experts, options.group, options.nonzeros);
  test::Buffer<std::byte, B> bytes(backend, static_cast<Index>(measured.peak()), std::byte{0x7f});
  Arena<B> arena(Gradients::all, bytes.data(), measured.peak());
  M memory;
  memory.bind(arena, tokens, experts, options.group, options.nonzeros);
  const ConstIntVector<B> masked =
      mask.empty() ? ConstIntVector<B>() : ConstIntVector<B>(kept.view());
  if constexpr (side == Side::experts) {
    sparse_transport_experts(backend, ConstMatrix<B>(in.view(tokens, experts)), masked, options,
                             memory, out.view(tokens, experts));
  } else {
    sparse_transport_tokens(backend, ConstMatrix<B>(in.view(tokens, experts)), masked, options,
                            memory, out.view(tokens, experts));
  }
  const auto got = out.to_vector();
  return {got.begin(), got.end()};
}

/// The k-sparse projection on the simplex by sorting, as it is defined.
Doubles project(const Doubles& v, Index k) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < v.size(); ++i) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return v[a] > v[b]; });
  order.resize(std::min(order.size(), to_size(k)));
  double sum = 0;
  double of_support = 0;
  double support = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    sum += v[order[i]];
    const double n = static_cast<double>(i + 1);
    if (1 / n + v[order[i]] - sum / n > 0) {
      support += 1;
      of_support += v[order[i]];
    }
  }
  Doubles out(v.size(), 0.0);
  for (const std::size_t i : order) out[i] = std::max(v[i] - (of_support - 1) / support, 0.0);
  return out;
}

/// The definition for one group without padding: q [m, n] row-major, marginals a and b.
Doubles semi_dual(const Doubles& q, Index m, Index n, double a, double b, const Options& o) {
  Doubles alpha(to_size(m), 0.0);
  Doubles first = alpha;
  Doubles second = alpha;
  Doubles plan(q.size(), 0.0);
  const auto columns = [&] {
    for (Index j = 0; j < n; ++j) {
      Doubles v;
      for (Index i = 0; i < m; ++i)
        v.push_back((alpha[to_size(i)] + q[to_size(i * n + j)]) / (o.gamma * b));
      const Doubles p = project(v, o.nonzeros);
      for (Index i = 0; i < m; ++i) plan[to_size(i * n + j)] = b * p[to_size(i)];
    }
  };
  for (Index step = 1; step <= o.max_iterations; ++step) {
    columns();
    double squares = 0;
    for (Index i = 0; i < m; ++i) {
      double g = -a;
      for (Index j = 0; j < n; ++j) g += plan[to_size(i * n + j)];
      squares += g * g;
      first[to_size(i)] = .9 * first[to_size(i)] + .1 * g;
      second[to_size(i)] = .999 * second[to_size(i)] + .001 * g * g;
      const double mean = first[to_size(i)] / (1 - std::pow(.9, static_cast<double>(step)));
      const double size = second[to_size(i)] / (1 - std::pow(.999, static_cast<double>(step)));
      alpha[to_size(i)] -= o.learning_rate * mean / (std::sqrt(size) + 1e-8);
    }
    if (std::sqrt(squares) <= o.tolerance) break;
  }
  columns();
  return plan;
}
Doubles transposed(const Doubles& m, Index rows, Index cols) {
  Doubles out;
  for (Index j = 0; j < cols; ++j)
    for (Index i = 0; i < rows; ++i) out.push_back(m[to_size(i * cols + j)]);
  return out;
}
Doubles softmax(const Doubles& logits, Index experts) {
  Doubles out;
  for (std::size_t t = 0; t < logits.size(); t += to_size(experts)) {
    double sum = 0;
    for (Index e = 0; e < experts; ++e) sum += std::exp(logits[t + to_size(e)]);
    for (Index e = 0; e < experts; ++e) out.push_back(std::exp(logits[t + to_size(e)]) / sum);
  }
  return out;
}

template <class B>
constexpr double near_by = sizeof(typename B::Scalar) == 8 ? 1e-9 : 1e-4;

}  // namespace

TEST_CASE_TEMPLATE("hand-computed projections on the k-sparse simplex", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto row = [&](const Doubles& v, Index k) {  // one step before any: the row's projection
    return plan_of<Side::tokens>(backend, v, static_cast<Index>(v.size()),
                                 {.nonzeros = k, .max_iterations = 0});
  };
  CHECK(all_near(row({.6, .3, .1, -1}, 2), {.65, .35, 0, 0}, 1e-6));
  CHECK(all_near(row({.6, .3, .1, -1}, 3), {.6, .3, .1, 0}, 1e-6));
  CHECK(all_near(row({3, 0, 0}, 2), {1, 0, 0}, 1e-6));
  CHECK(all_near(row({.5, .5, .5}, 2), {.5, .5, 0}, 1e-6));  // a tie to the lower
  Draw draw(1);
  for (int i = 0; i < 500; ++i) {
    Doubles v = draw.normals(draw.from(1, 9));
    for (double& x : v) x = std::round(x * 4) / 8;
    const Index k = draw.from(1, 10);
    REQUIRE(all_near(row(v, k), project(v, k), 1e-6));
  }
}

TEST_CASE_TEMPLATE("hand-computed loads of sparse token choice", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  for (const Index steps : {1, 20, 31, 60}) {
    const Doubles plan = plan_of<Side::tokens>(backend, {.9, .1, .8, .2}, 2,
                                               {.nonzeros = 1, .max_iterations = steps});
    CHECK(plan == (steps < 31 ? Doubles{1, 0, 1, 0} : Doubles{1, 0, 0, 1}));
  }
}

TEST_CASE_TEMPLATE("the golden vectors of sparse plans", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  for (const char* name : {"10_sparse_expert_choice", "11_ksparse_token_choice"}) {
    const nlohmann::json v = test::read_vector(name);
    const auto& in = v["inputs"];
    const bool experts = in.contains("k") == false;
    const Index e = experts ? 2 : 3;
    const Doubles q = softmax(test::flat<double>(in["logits"]), e);
    for (const Index n : test::flat<Index>(in["iters"])) {
      const Options o{.nonzeros = in[experts ? "capacity" : "k"],
                      .learning_rate = in["lr"],
                      .max_iterations = n,
                      .tolerance = in["tol"]};
      const Doubles got = experts ? plan_of<Side::experts>(backend, q, e, o)
                                  : plan_of<Side::tokens>(backend, q, e, o);
      const Doubles wanted =
          test::flat<double>(v["expected"][(std::string("plan_") += std::to_string(n))]);
      CHECK(all_near(got, wanted, near_by<B>));
    }
  }
}

TEST_CASE_TEMPLATE("sparse plans are those of the definition, with groups and padding", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  Draw draw(2);
  for (int i = 0; i < 400; ++i) {
    const Index group = i % 40 == 0 ? draw.from(60, 150) : draw.from(1, 9);
    const Index groups = draw.from(1, 3);
    const Index experts = draw.from(1, 6);
    const Side side = draw.chance(.5) ? Side::experts : Side::tokens;
    // In float few steps: Adam's first one is the sign of a gradient that rounding may have made.
    const Index steps = sizeof(typename B::Scalar) == 8 ? draw.from(0, 60) : 0;
    const Options o{.group = group,
                    .nonzeros = draw.from(1, (side == Side::experts ? group : experts) + 1),
                    .gamma = draw.chance(.5) ? 1 : .5,
                    .learning_rate = draw.chance(.5) ? .01 : .1,
                    .max_iterations = steps,
                    .tolerance = draw.chance(.5) ? 1e-3 : .5};
    const Doubles q = softmax(draw.normals(group * groups * experts), experts);
    Ints mask;
    if (draw.chance(.4))
      for (Index t = 0; t < group * groups; ++t) mask.push_back(draw.chance(.6) ? 1 : 0);
    const Doubles got = side == Side::experts ? plan_of<Side::experts>(backend, q, experts, o, mask)
                                              : plan_of<Side::tokens>(backend, q, experts, o, mask);
    Doubles wanted(q.size(), 0.0);
    for (Index g = 0; g < groups; ++g) {
      std::vector<Index> rows;
      Doubles own;
      for (Index t = g * group; t < (g + 1) * group; ++t) {
        if (!mask.empty() && mask[to_size(t)] == 0) continue;
        rows.push_back(t);
        own.insert(own.end(), q.begin() + t * experts, q.begin() + (t + 1) * experts);
      }
      const auto n = static_cast<Index>(rows.size());
      if (n == 0) continue;
      const double share = static_cast<double>(n) / static_cast<double>(experts);
      const Doubles plan =
          side == Side::experts
              ? semi_dual(own, n, experts, 1, share, o)
              : transposed(semi_dual(transposed(own, n, experts), experts, n, share, 1, o), experts,
                           n);
      for (Index r = 0; r < n; ++r)
        for (Index e = 0; e < experts; ++e)
          wanted[to_size(rows[to_size(r)] * experts + e)] = plan[to_size(r * experts + e)];
    }
    // Where the gradient is 0 but for rounding (all columns full), Adam makes 1e-8 of 1e-16.
    REQUIRE(all_near(got, wanted, sizeof(typename B::Scalar) == 8 ? 1e-7 : 1e-4));
  }
}

TEST_CASE_TEMPLATE("with many steps the other marginal comes near, with few non-zeros", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const Index tokens = 12;
  const Index experts = 3;
  const Doubles q = softmax(Draw(3).normals(tokens * experts), experts);
  const auto sums = [&](const Doubles& plan, Index row_step, Index col_step, Index n, Index of) {
    Doubles out;
    for (Index i = 0; i < n; ++i) {
      double sum = 0;
      for (Index j = 0; j < of; ++j) sum += plan[to_size(i * row_step + j * col_step)];
      out.push_back(sum);
    }
    return out;
  };
  const Doubles by_expert =
      plan_of<Side::experts>(backend, q, experts, {.nonzeros = 6, .max_iterations = 500});
  CHECK(all_near(sums(by_expert, 1, experts, experts, tokens), Doubles(3, 4.0), 1e-5));
  const auto far = [&](const Doubles& plan) {  // of the tokens' sums from 1
    double sum = 0;
    for (const double v : sums(plan, experts, 1, tokens, experts)) sum += std::fabs(v - 1);
    return sum;
  };
  const Doubles at_once =
      plan_of<Side::experts>(backend, q, experts, {.nonzeros = 6, .max_iterations = 0});
  CHECK(far(by_expert) < far(at_once));
  for (Index e = 0; e < experts; ++e) {
    Index nonzeros = 0;
    for (Index t = 0; t < tokens; ++t) nonzeros += by_expert[to_size(t * experts + e)] > 0 ? 1 : 0;
    CHECK(nonzeros <= 6);
  }
  const Doubles dense =
      plan_of<Side::experts>(backend, q, experts, {.nonzeros = tokens, .max_iterations = 500});
  CHECK(all_near(sums(dense, experts, 1, tokens, experts), Doubles(12, 1.0),
                 sizeof(typename B::Scalar) == 8 ? 1e-2 : 5e-2));
  const Doubles by_token =
      plan_of<Side::tokens>(backend, q, experts, {.nonzeros = 2, .max_iterations = 500});
  CHECK(all_near(sums(by_token, experts, 1, tokens, experts), Doubles(12, 1.0), 1e-5));
  CHECK(all_near(sums(by_token, 1, experts, experts, tokens), Doubles(3, 4.0), 2e-1));
}

TEST_CASE_TEMPLATE("sparse plans have the same bits on any number of threads", T, float, double) {
  using B = CpuBackend<T>;
  const Doubles q = softmax(Draw(4).normals(600 * 7), 7);
  const auto run = [&](B backend) {
    return std::pair{plan_of<Side::experts>(backend, q, 7, {.group = 200, .nonzeros = 30}),
                     plan_of<Side::tokens>(backend, q, 7, {.group = 200, .nonzeros = 2})};
  };
  const auto alone = run(B());
  for (const int threads : {2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(run(B(pool)) == alone);
  }
}

TEST_CASE_TEMPLATE("without tokens there is no sparse plan", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  CHECK(plan_of<Side::experts>(backend, {}, 3, {}).empty());
  CHECK(plan_of<Side::tokens>(backend, {}, 3, {}).empty());
}
