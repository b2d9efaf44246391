// Losses of tokens that correspond in two views.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "moxie/backend/thread_pool.hpp"
#include "moxie/regularizer/pairwise_consistency.hpp"
#include "moxie/regularizer/pairwise_jsd.hpp"
#include "moxie/regularizer/pairwise_l2.hpp"
#include "moxie/regularizer/pairwise_top_k_jsd.hpp"
#include "moxie/regularizer/with_decay.hpp"
#include "moxie/routing/soft.hpp"
#include "regularizer/evaluated.hpp"
#include "support/vectors.hpp"

using namespace moxie;
using test::check_near;
using testing::SparseFixture;

namespace {

using Host = CpuBackend<double>;
using Ids = std::vector<std::int32_t>;
static_assert(Regularizer<PairwiseConsistency, Host, SoftRouting<Host>> &&
              Regularizer<PairwiseL2, Host, SoftRouting<Host>> &&
              Regularizer<PairwiseJsd, Host, SoftRouting<Host>> &&
              Regularizer<PairwiseTopKJsd, Host, SoftRouting<Host>> &&
              Regularizer<WithDecay<PairwiseConsistency>, Host, SoftRouting<Host>>);

/// Loss, matrix and gradient with respect to given gates [tokens, experts].
template <class B>
struct OfGates {
  double loss = 0;
  std::vector<typename B::Scalar> sums, d_probs, d_noisy;

  template <class A>
  OfGates(B& backend, const A& a, Index experts, const std::vector<double>& probs, const Ids& pairs,
          const Ids& mask = {}) {
    using T = typename B::Scalar;
    SparseFixture<B> f(
        backend,
        {.tokens = static_cast<Index>(probs.size()) / experts, .experts = experts, .choices = 1},
        {.noisy = true});
    f.set_probs(probs);
    f.set_pairs(pairs);
    f.set_mask(mask);
    const test::Buffer<T, B> own(backend, a.sums(f.shape()), T(99));
    const test::Buffer<T, B> out(backend, 1, T(99));
    a.accumulate(backend, f.context, f.routing, own.view());
    a.loss(backend, f.context, f.routing, ConstVector<B>(own.view()), out.view());
    f.zero_gradients();
    a.loss_backward(backend, f.context, f.routing, ConstVector<B>(own.view()), f.gradients);
    loss = static_cast<double>(out.to_vector()[0]);
    sums = own.to_vector();
    d_probs = testing::detail::to_host(backend, f.gradients.probs);
    d_noisy = testing::detail::to_host(backend, f.gradients.noisy_probs);
  }
};

template <class B>
std::vector<typename B::Scalar> matrix_of(B& backend, const PairwiseConsistency& a, Index experts,
                                          const std::vector<typename B::Scalar>& sums) {
  const test::Buffer<typename B::Scalar, B> own(backend, sums);
  const test::Buffer<typename B::Scalar, B> m(backend, experts * experts, 99);
  a.co_routing(backend, ConstVector<B>(own.view()), m.view(experts, experts));
  return m.to_vector();
}

PairwiseConsistency by_position(double diagonal, double off_diagonal, Index tokens_per_image,
                                Index positions = 0) {
  return {.diagonal = diagonal,
          .off_diagonal = off_diagonal,
          .form = ConsistencyDiagonal::position,
          .tokens_per_image = tokens_per_image,
          .positions = positions};
}

/// The definition, in loops over everything.
struct Definition {
  double loss = 0;
  std::vector<double> d_probs;

  Definition(const PairwiseConsistency& a, Index experts, const std::vector<double>& probs,
             const Ids& pairs)
      : d_probs(probs.size(), 0) {
    const auto n = static_cast<double>(pairs.size() / 2);
    const auto p = [&](std::size_t pair, int side, Index e) {
      return probs[static_cast<std::size_t>(
          pairs[2 * pair + static_cast<std::size_t>(side)] * experts + e)];
    };
    const auto width = static_cast<double>(experts);
    const bool position = a.form == ConsistencyDiagonal::position;
    const Index shown = position ? (a.positions > 0 ? a.positions : a.tokens_per_image) : 0;
    const auto place = [&](std::size_t pair) {
      return pairs[2 * pair] % a.tokens_per_image - (a.tokens_per_image - shown);
    };
    const auto m = [&](Index e, Index f) {
      double sum = 0;
      for (std::size_t i = 0; 2 * i < pairs.size(); ++i) sum += p(i, 0, e) * p(i, 1, f);
      return width / n * sum;
    };
    const auto v = [&](Index x, Index e) {
      double sum = 0;
      for (std::size_t i = 0; 2 * i < pairs.size(); ++i)
        if (place(i) == x) sum += p(i, 0, e) * p(i, 1, e);
      return width / n * sum;
    };
    const double off_entries = width * (width - 1);
    const double on_entries = position ? width * static_cast<double>(shown) : width;
    for (Index e = 0; e < experts; ++e)
      for (Index f = 0; f < experts; ++f) {
        if (e != f) loss += a.off_diagonal * m(e, f) * m(e, f) / off_entries;
        if (e == f && !position) loss += a.diagonal * (m(e, e) - 1) * (m(e, e) - 1) / on_entries;
        for (std::size_t i = 0; 2 * i < pairs.size(); ++i) {
          double slope = 0;
          if (e != f) slope = 2 * a.off_diagonal * m(e, f) / off_entries;
          if (e == f && !position) slope = 2 * a.diagonal * (m(e, e) - 1) / on_entries;
          if (e == f && position && place(i) >= 0)
            slope = 2 * a.diagonal * (v(place(i), e) - 1) / on_entries;
          slope *= a.weight * width / n;
          d_probs[static_cast<std::size_t>(pairs[2 * i] * experts + e)] += slope * p(i, 1, f);
          d_probs[static_cast<std::size_t>(pairs[2 * i + 1] * experts + f)] += slope * p(i, 0, e);
        }
      }
    for (Index x = 0; x < shown; ++x)
      for (Index e = 0; e < experts; ++e)
        loss += a.diagonal * (v(x, e) - 1) * (v(x, e) - 1) / on_entries;
    loss *= a.weight;
  }
};

std::vector<double> random_gates(testing::detail::Draw& draw, Index tokens, Index experts) {
  std::vector<double> p = draw.normals(tokens * experts);
  for (auto row = p.begin(); row != p.end(); row += experts) {
    double sum = 0;
    for (Index e = 0; e < experts; ++e) sum += row[e] = std::exp(2 * row[e]);
    for (Index e = 0; e < experts; ++e) row[e] /= sum;
  }
  return p;
}

}  // namespace

TEST_CASE_TEMPLATE("routes that are sure, alike and balanced lose nothing but by position", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  constexpr double by = 10 * testing::tolerance<typename B::Scalar>;
  const Ids pairs{0, 2, 1, 3};  // view a: tokens 0 and 1; view b: 2 and 3
  const PairwiseConsistency plain{.diagonal = 1, .off_diagonal = 1};
  const std::vector<double> ideal{1, 0, 0, 1, 1, 0, 0, 1};
  const OfGates<B> best(backend, plain, 2, ideal, pairs);
  CHECK(best.loss == 0);
  check_near(matrix_of(backend, plain, 2, best.sums), {1, 0, 0, 1});
  for (const auto d : best.d_probs) CHECK(d == 0);
  CHECK(testing::near(OfGates<B>(backend, by_position(1, 1, 2), 2, ideal, pairs).loss, .5, by));

  const std::vector<double> even(8, .5);
  const PairwiseConsistency released;
  CHECK(testing::near(OfGates<B>(backend, released, 2, even, pairs).loss, .01375, by));
  const std::vector<double> collapsed{1, 0, 1, 0, 1, 0, 1, 0};
  CHECK(testing::near(OfGates<B>(backend, released, 2, collapsed, pairs).loss, .005, by));
  CHECK(testing::near(OfGates<B>(backend, by_position(5e-3, 5e-2, 2), 2, collapsed, pairs).loss,
                      .0025, by));
  // Its gradient there: M - 1 = (1, -1), so that E / N * 2 * .005 / 2 * (1, -1) p, E = N = 2.
  const OfGates<B> d(backend, PairwiseConsistency{.weight = 2}, 2, collapsed, pairs);
  check_near(d.d_probs, {.01, 0, .01, 0, .01, 0, .01, 0});
}

TEST_CASE_TEMPLATE("one expert is consistent", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const OfGates<B> one(backend, PairwiseConsistency{}, 1, {1, 1, 1, 1}, {0, 2, 1, 2});
  CHECK(one.loss == 0);
  for (const auto d : one.d_probs) CHECK(d == 0);
}

TEST_CASE_TEMPLATE("loss and gradient of any pairs are those of the definition", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  constexpr double by = 20 * testing::tolerance<typename B::Scalar>;
  testing::detail::Draw draw(3);
  struct Size {
    Index experts, images, tokens, pairs;
  };
  // From many parts of the matrix to one, more tokens than blocks and fewer.
  for (const Size size : {Size{1, 2, 3, 4}, Size{2, 2, 1, 1}, Size{4, 6, 5, 40},
                          Size{9, 4, 50, 300}, Size{40, 2, 9, 7}, Size{600, 2, 2, 3}}) {
    CAPTURE(size.experts);
    const Index tokens = size.images * size.tokens;
    const std::vector<double> probs = random_gates(draw, tokens, size.experts);
    Ids pairs;  // a token in many pairs, on both sides, with itself
    for (Index i = 0; i < 2 * size.pairs; ++i)
      pairs.push_back(static_cast<std::int32_t>(draw.from(0, tokens - 1)));
    for (PairwiseConsistency a :
         {PairwiseConsistency{.weight = .7, .diagonal = 2, .off_diagonal = 3},
          by_position(2, 3, size.tokens), by_position(2, 3, size.tokens, (size.tokens + 1) / 2)}) {
      if (size.experts > 40 && a.form == ConsistencyDiagonal::position) continue;
      CAPTURE(a.positions);
      const OfGates<B> got(backend, a, size.experts, probs, pairs);
      if (size.experts <= 40) {
        const Definition wanted(a, size.experts, probs, pairs);
        CHECK(testing::near(got.loss, wanted.loss, by));
        CHECK(testing::detail::all_near(
            got.d_probs,
            std::vector<typename B::Scalar>(wanted.d_probs.begin(), wanted.d_probs.end()), by));
      }
      const auto m = matrix_of(backend, a, size.experts, got.sums);
      double total = 0;
      for (const auto v : m) total += static_cast<double>(v);
      CHECK(testing::near(total, static_cast<double>(size.experts), by));
      // Views that change places transpose the matrix.
      if (a.form == ConsistencyDiagonal::position) continue;
      Ids swapped = pairs;
      for (std::size_t i = 0; i < swapped.size(); i += 2) std::swap(swapped[i], swapped[i + 1]);
      const OfGates<B> other(backend, a, size.experts, probs, swapped);
      CHECK(testing::near(other.loss, got.loss, by));
      CHECK(testing::detail::all_near(other.d_probs, got.d_probs, by));
      const auto transposed = matrix_of(backend, a, size.experts, other.sums);
      bool same = true;
      for (Index i = 0; i < size.experts * size.experts; ++i)
        same = same && testing::near(static_cast<double>(m[static_cast<std::size_t>(i)]),
                                     static_cast<double>(transposed[static_cast<std::size_t>(
                                         i % size.experts * size.experts + i / size.experts)]),
                                     by);
      CHECK(same);
    }
  }
}

TEST_CASE("the gradient off the diagonal keeps its digits where one expert takes nearly all") {
  using B = CpuBackend<float>;
  B backend;
  for (const Index experts : {8, 40}) {
    std::vector<double> probs;
    Ids pairs;
    for (std::int32_t t = 0; t < 64; ++t) {
      for (Index e = 0; e < experts; ++e)
        probs.push_back(
            static_cast<float>(e == 0 ? 1 : 1e-4 * (1 + 0.1 * static_cast<double>((t + e) % 7))));
      pairs.insert(pairs.end(), {t, (t + 32) % 64});
    }
    const PairwiseConsistency a{.weight = 1, .diagonal = 0, .off_diagonal = 1};
    const OfGates<B> got(backend, a, experts, probs, pairs);
    const Definition wanted(a, experts, probs, pairs);
    for (std::size_t i = 0; i < probs.size(); ++i)
      CHECK(static_cast<double>(got.d_probs[i]) ==
            doctest::Approx(wanted.d_probs[i]).epsilon(1e-5));
  }
}

TEST_CASE_TEMPLATE("distances of routes by hand", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  constexpr double by = 1e-9 + 10 * testing::tolerance<typename B::Scalar>;
  const std::vector<double> p{1, 0, 0, 1, .5, .5, 1, 0};
  const auto loss = [&](const auto& a, const Ids& pairs) {
    return OfGates<B>(backend, a, 2, p, pairs).loss;
  };
  CHECK(testing::near(loss(PairwiseL2{.weight = 1}, {0, 1}), std::sqrt(2 + 1e-9), by));
  CHECK(testing::near(loss(PairwiseL2{.weight = 1}, {0, 3}), std::sqrt(1e-9), by));
  CHECK(testing::near(loss(PairwiseJsd{.weight = 1}, {0, 1}), std::log(2), by));
  CHECK(loss(PairwiseJsd{.weight = 1}, {0, 3}) == 0);
  const double halfway =
      (.5 * std::log(.5 / .75) + .5 * std::log(.5 / .25) + std::log(1 / .75)) / 2;
  CHECK(testing::near(loss(PairwiseJsd{.weight = 1}, {2, 3}), halfway, by));
  CHECK(testing::near(loss(PairwiseJsd{.weight = 3}, {2, 3, 0, 1, 1, 0, 0, 3}),
                      3 * (halfway + 2 * std::log(2)) / 4, by));
  // The largest alone: of two that are equal the first.
  CHECK(testing::near(loss(PairwiseTopKJsd{.weight = 1, .k = 1}, {2, 3}),
                      (.5 * std::log(.5 / .75) + std::log(1 / .75)) / 2, by));
  CHECK(testing::near(loss(PairwiseTopKJsd{.weight = 1, .k = 1}, {2, 1}),
                      (.5 * std::log(.5 / .25) + std::log(1 / .75)) / 2, by));
  CHECK(testing::near(loss(PairwiseTopKJsd{.weight = 1, .k = 2}, {2, 3}), halfway, by));
  CHECK(testing::near(loss(PairwiseTopKJsd{.weight = 1, .k = 9}, {2, 3}), halfway, by));
}

TEST_CASE_TEMPLATE("the golden vector of pairs", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto vector = test::read_vector("17_prc");
  const auto& in = vector["inputs"];
  const auto& expected = vector["expected"];
  const auto images = static_cast<Index>(in["p1"].size());
  const auto tokens = static_cast<Index>(in["p1"][0].size());
  const auto experts = static_cast<Index>(in["p1"][0][0].size());
  std::vector<double> probs;  // all first views, then all second ones
  for (const char* view : {"p1", "p2"})
    for (const double v : test::flat<double>(in[view])) probs.push_back(v);
  Ids pairs;
  for (Index image = 0; image < images; ++image)
    for (const auto& pair : in["pairs"][static_cast<std::size_t>(image)])
      for (const Index view : {Index(0), Index(1)})
        pairs.push_back(static_cast<std::int32_t>(
            (view * images + image) * tokens + pair[static_cast<std::size_t>(view)].get<Index>()));
  const auto check = [&](const PairwiseConsistency& a, const char* name) {
    const auto& wanted = expected[name];
    const OfGates<B> got(backend, a, experts, probs, pairs);
    constexpr double by = 1e-10 + testing::tolerance<typename B::Scalar>;
    CHECK(testing::near(got.loss, wanted["loss"], by));
    check_near(matrix_of(backend, a, experts, got.sums), test::flat<double>(wanted["m"]));
    std::vector<double> d = test::flat<double>(wanted["dp1"]);
    for (const double v : test::flat<double>(wanted["dp2"])) d.push_back(v);
    check_near(got.d_probs, d);
    for (const auto v : got.d_noisy) CHECK(v == 0);
  };
  check({.diagonal = in["w_diag"], .off_diagonal = in["w_off"]}, "matrix");
  check(by_position(in["w_diag"], in["w_off"], tokens), "position");
  const auto mean = [&](const auto& a) {
    return OfGates<B>(backend, a, experts, probs, pairs).loss;
  };
  CHECK(testing::near(mean(PairwiseL2{.weight = 1}), expected["l2"], 1e-5));
  CHECK(testing::near(mean(PairwiseJsd{.weight = 1}), expected["jsd"], 1e-5));
}

TEST_CASE_TEMPLATE("padding and pairs that name no token count for nothing", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::detail::Draw draw(5);
  const std::vector<double> probs = random_gates(draw, 6, 3);
  const auto check = [&](const auto& a) {
    CAPTURE(a.name);
    const OfGates<B> wanted(backend, a, 3, probs, {0, 3, 2, 4});
    const OfGates<B> missing(backend, a, 3, probs, {0, 3, 1, -1, -1, 5, 6, 1, 2, 4, 5, 6});
    const OfGates<B> masked(backend, a, 3, probs, {0, 3, 1, 4, 2, 4, 5, 1}, {1, 0, 1, 1, 1, 1});
    for (const auto* other : {&missing, &masked}) {
      CHECK(testing::near(other->loss, wanted.loss, 10 * testing::tolerance<typename B::Scalar>));
      CHECK(testing::detail::all_near(other->d_probs, wanted.d_probs,
                                      10 * testing::tolerance<typename B::Scalar>));
    }
    const OfGates<B> none(backend, a, 3, probs, {0, -1, -1, -1});
    CHECK(none.loss == 0);
    for (const auto d : none.d_probs) CHECK(d == 0);
  };
  check(PairwiseConsistency{});
  check(by_position(.5, .7, 3));
  check(PairwiseL2{.weight = 1});
  check(PairwiseJsd{.weight = 1});
  check(PairwiseTopKJsd{.weight = 1});
}

TEST_CASE_TEMPLATE("nothing is computed without pairs or without weight", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const std::vector<double> broken(12, std::numeric_limits<double>::quiet_NaN());
  const auto check = [&](const auto& a, const Ids& pairs) {
    CAPTURE(a.name);
    const OfGates<B> got(backend, a, 3, broken, pairs);
    CHECK(got.loss == 0);
    for (const auto d : got.d_probs) CHECK(d == 0);
    for (const auto sum : got.sums) CHECK(sum == 0);
  };
  check(PairwiseConsistency{}, {});
  check(by_position(1, 1, 2), {});
  check(PairwiseL2{}, {});
  check(PairwiseJsd{}, {});
  check(PairwiseTopKJsd{}, {});
  check(PairwiseConsistency{.weight = 0}, {0, 1});
  check(PairwiseConsistency{.diagonal = 0, .off_diagonal = 0}, {0, 1});
  check(PairwiseL2{.weight = 0}, {0, 1});
  check(PairwiseJsd{.weight = 0}, {0, 1});
  check(PairwiseTopKJsd{.weight = 0}, {0, 1});
}

TEST_CASE("bits do not depend on threads") {
  testing::detail::Draw draw(8);
  const std::vector<double> probs = random_gates(draw, 500, 7);
  Ids pairs;
  for (Index i = 0; i < 1000; ++i) pairs.push_back(static_cast<std::int32_t>(draw.from(0, 499)));
  const auto check = [&](const auto& a) {
    CAPTURE(a.name);
    CpuBackend<double> alone;
    ThreadPool pool(3);
    CpuBackend<double> shared(pool);
    const OfGates<CpuBackend<double>> one(alone, a, 7, probs, pairs);
    const OfGates<CpuBackend<double>> three(shared, a, 7, probs, pairs);
    CHECK(one.loss == three.loss);
    CHECK(one.sums == three.sums);
    CHECK(one.d_probs == three.d_probs);
  };
  check(PairwiseConsistency{});
  check(by_position(1, 1, 50));
  check(PairwiseL2{});
  check(PairwiseTopKJsd{});
}

TEST_CASE("what makes no sense is refused when memory is taken") {
  const RoutingShape shape{.tokens = 4, .experts = 2};
  CHECK_THROWS_WITH_AS((void)PairwiseConsistency{.form = ConsistencyDiagonal::position}.sums(shape),
                       "moxie::PairwiseConsistency: tokens_per_image is 0 and positions is 0, "
                       "expected at least 1 and "
                       "0 to tokens_per_image, which ConsistencyDiagonal::position counts by",
                       config_error);
  CHECK_THROWS_AS((void)by_position(1, 1, 4, 5).sums(shape), config_error);
  CHECK_THROWS_AS((void)by_position(1, 1, 4, -1).sums(shape), config_error);
  CHECK_THROWS_WITH_AS(
      (void)PairwiseConsistency{.diagonal = std::numeric_limits<double>::infinity()}.sums(shape),
      "moxie::PairwiseConsistency: diagonal is inf and off_diagonal 0.05, expected finite numbers",
      config_error);
  CHECK_THROWS_WITH_AS((void)PairwiseTopKJsd{.k = 0}.sums(shape),
                       "moxie::PairwiseTopKJsd: k is 0, expected >= 1", config_error);
}
