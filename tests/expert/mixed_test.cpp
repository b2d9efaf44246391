#include "moxie/expert/mixed.hpp"
#include "expert/experts.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/expert/gated.hpp"

using namespace moxie;
using namespace moxie::test;

TEST_CASE_TEMPLATE("Mixed obeys the Expert laws", B, MOXIE_TEST_BACKENDS) {
  check_expert<B>(Mixed{{2, 3}, FeedForward<Gelu>{.hidden = 6}, SwiGLU{.hidden = 4}},
                  {.cases = 30, .experts = 5});
  check_expert<B>(Mixed{{1, 1, 2},
                        FeedForward<Gelu>{.hidden = 2, .output = 3},
                        FeedForward<Gelu>{.hidden = 19, .output = 3},
                        FeedForward<Relu>{.hidden = 5, .output = 3}},
                  {.cases = 10, .experts = 4});
  check_expert<B>(Mixed{{3}, SwiGLU{.hidden = 4}}, {.cases = 10, .experts = 3});
}

TEST_CASE_TEMPLATE("each kind of Mixed gives what it gives alone", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const FeedForward<Gelu> small{.hidden = 3, .output = 2};
  const SwiGLU large{.hidden = 8, .output = 2};
  const Mixed mixed{{2, 1}, small, large};
  // Kernels of two small experts and of a large one; the draws of the second begin where the
  // parameters of the first end.
  ExpertRun<B, Mixed<FeedForward<Gelu>, SwiGLU>> all(backend, mixed, {0, 2, 5, 9}, 4);
  ExpertRun<B, FeedForward<Gelu>> first(backend, small, {0, 2, 5}, 4);
  ExpertRun<B, SwiGLU> second(backend, large, {0, 4}, 4);
  all.draw_parameters();
  first.draw_parameters();
  second.draw_parameters(first.parameters().size());
  const std::vector<T> x = all.x().get();
  const std::vector<T> dy = all.dy().get();
  const auto part = [](const std::vector<T>& v, Index from, Index to) {
    return std::vector<double>(v.begin() + from, v.begin() + to);
  };
  first.x().set(part(x, 0, 5 * 4));
  first.dy().set(part(dy, 0, 5 * 2));
  second.x().set(part(x, 5 * 4, 9 * 4));
  second.dy().set(part(dy, 5 * 2, 9 * 2));

  std::vector<T> out, dx, gradients;
  const auto run = [&](auto& one) {
    one.parameters().zero_gradients();
    one.forward();
    one.backward();
    for (const T v : one.out()) out.push_back(v);
    for (const T v : one.dx()) dx.push_back(v);
    for (const T v : testing::detail::to_host(backend, one.parameters().gradients()))
      gradients.push_back(v);
  };
  run(first);
  run(second);
  const std::vector<T> wanted_out = std::move(out), wanted_dx = std::move(dx);
  const std::vector<T> wanted_gradients = std::move(gradients);
  out.clear(), dx.clear(), gradients.clear();
  run(all);
  CHECK(out == wanted_out);
  CHECK(dx == wanted_dx);
  CHECK(gradients == wanted_gradients);
}

TEST_CASE("Mixed names its kinds by number, each with the axis of its own experts") {
  using B = CpuBackend<float>;
  B backend;
  const auto scope = root(backend);
  const Mixed mixed{{2, 1}, FeedForward<Gelu>{.hidden = 8}, FeedForward<Gelu>{.hidden = 16}};
  CHECK(mixed == Mixed{{2, 1}, FeedForward<Gelu>{.hidden = 8}, FeedForward<Gelu>{.hidden = 16}});
  CHECK_FALSE(mixed ==
              Mixed{{1, 2}, FeedForward<Gelu>{.hidden = 8}, FeedForward<Gelu>{.hidden = 16}});
  decltype(mixed)::State<B> state;
  mixed.declare(scope / "Moe", ExpertShape{3, 4}, state);
  const auto& entries = scope.parameters->entries();
  REQUIRE(entries.size() == 8);
  CHECK(entries[0].name == "Moe/0/Mlp/Dense_0/kernel");
  CHECK(entries[0].shape == std::vector<Index>{2, 4, 8});
  CHECK(entries[4].name == "Moe/1/Mlp/Dense_0/kernel");
  CHECK(entries[4].shape == std::vector<Index>{1, 4, 16});
  CHECK(mixed.output_width(4) == 4);
}

TEST_CASE("Mixed says what is wrong with its counts and widths") {
  using B = CpuBackend<float>;
  B backend;
  const FeedForward<Gelu> four{.hidden = 8, .output = 4};
  const FeedForward<Gelu> three{.hidden = 8, .output = 3};
  const auto text = [&](const auto& mixed, Index experts) {
    typename std::decay_t<decltype(mixed)>::template State<B> state;
    return message_of<config_error>([&] {
      mixed.declare(root(backend), ExpertShape{experts, 4}, state);
    });
  };
  CHECK(text(Mixed{{}, four, four}, 3) ==
        "moxie::Mixed: counts has 0 entries, expected 2, one for each kind of expert");
  CHECK(text(Mixed{{1, 1, 1}, four, four}, 3) ==
        "moxie::Mixed: counts has 3 entries, expected 2, one for each kind of expert");
  CHECK(text(Mixed{{3, 0}, four, four}, 3) == "moxie::Mixed: counts[1] is 0, expected >= 1");
  CHECK(text(Mixed{{1, 1}, four, four}, 3) ==
        "moxie::Mixed: counts sum to 2, expected 3, the experts of the layer");
  CHECK(text(Mixed{{1, 2}, four, three}, 3) ==
        "moxie::Mixed: kind 0 gives rows of 4, kind 1 rows of 3, expected the same width of all "
        "kinds");
  CHECK(text(Mixed{{1, 2}, four, FeedForward<Gelu>{}}, 3) ==
        "moxie::FeedForward: hidden is 0, expected >= 1");
  CHECK(text(Mixed{{1, 2}, four, four}, 3) == "no error");
}

TEST_CASE("Mixed allocates nothing in a pass") {
  using B = CpuBackend<float>;
  B backend;
  const Mixed expert{{1, 2}, FeedForward<Gelu>{.hidden = 3}, SwiGLU{.hidden = 5}};
  ExpertRun<B, Mixed<FeedForward<Gelu>, SwiGLU>> run(backend, expert, {0, 3, 3, 8}, 5);
  const int before = allocations();
  run.forward();
  run.backward();
  CHECK(allocations() == before);
}

namespace {

/// The second of its kinds borrows from the first expert.
struct BorrowingKinds : Mixed<FeedForward<Gelu>, FeedForward<Gelu>> {
  template <Backend B>
  void forward(B& b, const Parameters<B>& p, const State<B>& s, const Rows<B>& in, Matrix<B> out,
               Tape<B>& tape, const Pass<B>& pass) const {
    Mixed::forward(b, p, s, in, out, tape, pass);
    for (Index r = in.offset[2]; r < in.offset[3]; ++r)
      out(r, 0) += p.value(std::get<0>(s.kinds).b2)(0, 0);
  }
};

}  // namespace

TEST_CASE("the Expert laws find kinds of experts that share parameters") {
  CpuBackend<double> backend;
  const BorrowingKinds borrowing{
      {{2, 1}, FeedForward<Gelu>{.hidden = 3}, FeedForward<Gelu>{.hidden = 4}}};
  const testing::LawReport report =
      testing::check_expert_laws(backend, borrowing, {.cases = 30, .experts = 3});
  CHECK(report.message.find("rows of several experts depend on one slice of "
                            "'0/Mlp/Dense_1/bias'") != std::string::npos);
}
