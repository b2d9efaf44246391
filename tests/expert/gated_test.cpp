#include "moxie/expert/gated.hpp"
#include "expert/experts.hpp"

using namespace moxie;
using namespace moxie::test;

TEST_CASE_TEMPLATE("GatedFeedForward equals numbers worked out by hand", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  // D = 2, H = 1, O = 1; relu for the gate. Expert 0 owns row 0, expert 1 rows 1 and 2.
  const GatedFeedForward<Relu> expert{.hidden = 1, .output = 1};
  ExpertRun<B, GatedFeedForward<Relu>> run(backend, expert, {0, 1, 3}, 2);
  testing::detail::from_host(backend, run.parameters().edit(),
                             std::vector<double>{1, 3, 2, -1,  // expert 0: rows of x, gate and up
                                                 0, 1, 1, 1,   // expert 1
                                                 1, 2, 0, -1,  // biases of gate and up
                                                 10, -2,       // Dense_1/kernel
                                                 0.5, 0});     // Dense_1/bias
  run.x().set({1, 1, 2, 3, 4, -3});
  run.dy().set({1, 1, 1});
  run.forward();
  // Row 0: gate 1 + 2 + 1 = 4, up 3 - 1 + 2 = 4, act 16. Row 1: gate 3, up 2 + 3 - 1 = 4, act 12.
  // Row 2: gate -3, so nothing.
  CHECK(run.out() == std::vector<T>{160.5, -24, 0});
  run.parameters().zero_gradients();
  run.backward();
  // d act = 10, -2, -2. d gate = d act * up * [gate > 0] = 40, -8, 0; d up = d act * relu(gate) =
  // 40, -6, 0. dx = d gate * Wg + d up * Wu.
  CHECK(run.dx() == std::vector<T>{40 + 120, 80 - 40, 0 - 6, -8 - 6, 0, 0});
  CHECK(testing::detail::to_host(backend, run.parameters().gradients()) ==
        std::vector<T>{40, 40, 40, 40, -16, -12, -24, -18, 40, 40, -8, -6, 16, 12, 1, 2});
}

TEST_CASE_TEMPLATE("GatedFeedForward obeys the Expert laws", B, MOXIE_TEST_BACKENDS) {
  check_expert<B>(SwiGLU{.hidden = 6});
  check_expert<B>(SwiGLU{.hidden = 17, .output = 3, .bias = false}, {.cases = 20, .width = 18});
  check_expert<B>(GEGLU{.hidden = 1, .output = 1}, {.cases = 10, .width = 1});
}

TEST_CASE("GatedFeedForward declares its parameters under FeedForward's names") {
  using B = CpuBackend<float>;
  B backend;
  for (const bool bias : {true, false}) {
    const auto scope = root(backend);
    SwiGLU::State<B> state;
    SwiGLU{.hidden = 8, .output = 3, .bias = bias}.declare(scope / "Moe", ExpertShape{2, 4}, state);
    std::vector<std::pair<std::string, std::vector<Index>>> got;
    for (const ParameterEntry& e : scope.parameters->entries()) {
      CHECK(e.expert_axis);
      got.emplace_back(e.name, e.shape);
    }
    std::vector<std::pair<std::string, std::vector<Index>>> wanted{
        {"Moe/Mlp/Dense_0/kernel", {2, 4, 16}}, {"Moe/Mlp/Dense_1/kernel", {2, 8, 3}}};
    if (bias) {
      wanted.insert(wanted.begin() + 1, {"Moe/Mlp/Dense_0/bias", {2, 16}});
      wanted.push_back({"Moe/Mlp/Dense_1/bias", {2, 3}});
    }
    CHECK(got == wanted);
    // Each half of the kernel starts as a kernel of its own would: within sqrt(6 / (4 + 8)).
    scope.parameters->initialize(1);
    float most = 0;
    for (Index i = 0; i < 2 * 4 * 16; ++i)
      most = (std::max)(most, std::fabs(scope.parameters->value(state.w1.id).data[i]));
    CHECK(most <= std::sqrt(0.5F));
    CHECK(most > 0.95F * std::sqrt(0.5F));
  }
}

TEST_CASE("GatedFeedForward refuses a hidden width below 1") {
  CpuBackend<float> backend;
  SwiGLU::State<CpuBackend<float>> state;
  CHECK(message_of<config_error>([&] {
          SwiGLU{}.declare(root(backend), ExpertShape{2, 4}, state);
        }) == "moxie::GatedFeedForward: hidden is 0, expected >= 1");
}

TEST_CASE("GatedFeedForward allocates nothing in a pass") {
  using B = CpuBackend<float>;
  B backend;
  const SwiGLU expert{.hidden = 9};
  ExpertRun<B, SwiGLU> run(backend, expert, {0, 3, 3, 8}, 5);
  const int before = allocations();
  run.forward();
  run.backward();
  CHECK(allocations() == before);
}
