#include <doctest/doctest.h>

#include "moxie/expert/feed_forward.hpp"
#include "moxie/testing/expert_laws.hpp"
#include "support/backends.hpp"

using namespace moxie;

namespace {

template <class B, class X>
void check_laws(const X& expert, testing::ExpertLawOptions options = {}) {
  B backend = test::make_backend<B>();
  const testing::LawReport report = testing::check_expert_laws(backend, expert, options);
  CHECK_MESSAGE(report.passed, report.message);
}

/// An activation of a user: x^2 + x.
struct Parabola {
  template <std::floating_point T>
  MOXIE_HD MOXIE_INLINE static T value(T x) {
    return x * x + x;
  }
  template <std::floating_point T>
  MOXIE_HD MOXIE_INLINE static T derivative(T x) {
    return T(2) * x + T(1);
  }
};

/// y = A(x w1 + b1) w2 + b2 of expert e, by loops in double.
template <class A, class B>
std::vector<double> by_loops(const Parameters<B>& p, Index experts, Index e, Index hidden,
                             Index output, const std::vector<double>& x) {
  const auto entry = [&](Index id, Index size) {
    const auto all = p.vector(static_cast<std::size_t>(id));
    CHECK(all.size == experts * size);
    return std::vector<double>(all.data + e * size, all.data + (e + 1) * size);
  };
  const auto width = static_cast<Index>(x.size());
  const std::vector<double> w1 = entry(0, width * hidden);
  const std::vector<double> b1 = entry(1, hidden);
  const std::vector<double> w2 = entry(2, hidden * output);
  const std::vector<double> b2 = entry(3, output);
  std::vector<double> y = b2;
  for (Index h = 0; h < hidden; ++h) {
    double z = b1[static_cast<std::size_t>(h)];
    for (Index d = 0; d < width; ++d)
      z += x[static_cast<std::size_t>(d)] * w1[static_cast<std::size_t>(d * hidden + h)];
    for (Index o = 0; o < output; ++o)
      y[static_cast<std::size_t>(o)] += A::value(z) * w2[static_cast<std::size_t>(h * output + o)];
  }
  return y;
}

template <class A, class B>
void check_against_loops() {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  const FeedForward<A> expert{.hidden = 19, .output = 7};
  typename FeedForward<A>::template State<B> state;
  typename FeedForward<A>::template Tape<B> tape;
  const Scope<B> scope = root(backend);
  expert.declare(scope, ExpertShape{3, 5}, state);
  Parameters<B>& p = *scope.parameters;
  p.initialize(11);
  testing::detail::Draw draw(3);
  testing::detail::from_host(backend, p.edit(), draw.normals(p.size()));

  constexpr Index rows = 6;
  Arena<B> measured(Gradients::none);
  expert.bind(backend, measured, p, state, rows, tape);
  const Memory<B> memory(backend, measured.peak());
  Arena<B> arena(Gradients::none, memory.data(), memory.bytes());
  expert.bind(backend, arena, p, state, rows, tape);

  const testing::detail::OwnedMatrix<B> x(backend, 4, 5, draw.normals(20));
  const testing::detail::OwnedMatrix<B> out(backend, rows, 7);
  test::Buffer<std::int32_t, B> index(backend, {3, 0, 0, 2, 1, 3});
  test::Buffer<std::int32_t, B> offset(backend, {0, 2, 2, 6});
  expert.forward(backend, p, state, {x.read(), index.view(), {}, offset.view(), rows}, out.view(),
                 tape, {});
  const std::vector<T> got = out.get();
  const std::vector<T> tokens = x.get();
  for (Index r = 0; r < rows; ++r) {
    const Index from = index.to_vector()[static_cast<std::size_t>(r)];
    const std::vector<double> row(tokens.begin() + from * 5, tokens.begin() + (from + 1) * 5);
    const std::vector<double> wanted = by_loops<A>(p, 3, r < 2 ? 0 : 2, 19, 7, row);
    for (Index o = 0; o < 7; ++o) {
      CAPTURE(r);
      CAPTURE(o);
      CHECK(testing::near(static_cast<double>(got[static_cast<std::size_t>(r * 7 + o)]),
                          wanted[static_cast<std::size_t>(o)], 10 * testing::tolerance<T>));
    }
  }
}

}  // namespace

TEST_CASE_TEMPLATE("FeedForward equals the double loop", B, MOXIE_TEST_BACKENDS) {
  check_against_loops<Gelu, B>();
}

TEST_CASE("an activation of a user's own works like ours") {
  check_against_loops<Parabola, CpuBackend<double>>();
  check_laws<CpuBackend<double>>(FeedForward<Parabola>{.hidden = 6}, {.cases = 10});
}

TEST_CASE_TEMPLATE("FeedForward obeys the Expert laws", B, MOXIE_TEST_BACKENDS) {
  check_laws<B>(FeedForward<Gelu>{.hidden = 6});
  check_laws<B>(FeedForward<Gelu>{.hidden = 17, .output = 3}, {.cases = 20, .width = 18});
  check_laws<B>(FeedForward<Gelu>{.hidden = 1, .output = 1}, {.cases = 10, .width = 1});
  check_laws<B>(FeedForward<Gelu>{.hidden = 128}, {.cases = 1});  // rows that are padded
}

TEST_CASE("FeedForward declares its parameters under V-MoE's names") {
  CpuBackend<float> backend;
  const auto scope = root(backend);
  FeedForward<Gelu>::State<CpuBackend<float>> state;
  const FeedForward<Gelu> expert{.hidden = 8, .same_experts = true};
  expert.declare(scope / "Moe", ExpertShape{2, 4}, state);
  const auto& entries = scope.parameters->entries();
  REQUIRE(entries.size() == 4);
  CHECK(entries[0].name == "Moe/Mlp/Dense_0/kernel");
  CHECK(entries[0].shape == std::vector<Index>{2, 4, 8});
  CHECK(entries[1].name == "Moe/Mlp/Dense_0/bias");
  CHECK(entries[1].shape == std::vector<Index>{2, 8});
  CHECK(entries[2].name == "Moe/Mlp/Dense_1/kernel");
  CHECK(entries[2].shape == std::vector<Index>{2, 8, 4});
  CHECK(entries[3].shape == std::vector<Index>{2, 4});
  for (const ParameterEntry& e : entries) CHECK((e.expert_axis && e.same_experts));
  CHECK(expert.output_width(4) == 4);
  CHECK(FeedForward<Gelu>{.hidden = 8, .output = 3}.output_width(4) == 3);
}

TEST_CASE("FeedForward refuses a hidden width below 1") {
  CpuBackend<float> backend;
  FeedForward<Gelu>::State<CpuBackend<float>> state;
  CHECK_THROWS_WITH_AS(FeedForward<Gelu>{}.declare(root(backend), ExpertShape{2, 4}, state),
                       "moxie::FeedForward: hidden is 0, expected >= 1", config_error);
}

namespace {

/// Its last expert borrows the bias of the first.
struct Borrowing : FeedForward<Gelu> {
  template <Backend B>
  void forward(B& b, const Parameters<B>& p, const State<B>& s, const Rows<B>& in, Matrix<B> out,
               Tape<B>& tape, const Pass<B>& pass) const {
    FeedForward<Gelu>::forward(b, p, s, in, out, tape, pass);
    const Index experts = in.offset.size - 1;
    for (Index r = in.offset[experts - 1]; r < in.offset[experts]; ++r)
      out(r, 0) += p.value(s.b2)(0, 0);
  }
};

}  // namespace

TEST_CASE("the Expert laws find an expert that breaks them") {
  CpuBackend<double> backend;
  const testing::LawReport report =
      testing::check_expert_laws(backend, Borrowing{{.hidden = 3}}, {.cases = 30});
  CHECK(report.message.find("rows of one expert depend on the parameters of another (case ") !=
        std::string::npos);
  CHECK(report.message.find("a gradient disagrees with central differences") != std::string::npos);
  CHECK(report.message.find("a row that no expert owns is written") == std::string::npos);
}
