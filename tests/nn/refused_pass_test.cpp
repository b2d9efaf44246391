// What a tape of a network allows after a pass that was refused, and after a backward.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "moxie/backend/thread_pool.hpp"
#include "moxie/capacity/factor.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/nn/vit.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/robust/dual_model.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/gradcheck.hpp"
#include "support/backends.hpp"
#include "support/errors.hpp"
#include "support/failing_executor.hpp"
#include "support/kernels.hpp"

namespace refused_pass_test {

using namespace moxie;
using test::message_of;
using B = CpuBackend<double>;

namespace {

Vit<B> make_vit(const Scope<B>& at, double factor) {
  VitConfig config;
  config.image_height = config.image_width = 8;
  config.channels = 1;
  config.classes = 3;
  config.patch = 4;
  config.width = 8;
  config.heads = 2;
  config.blocks = 4;
  config.hidden = 16;
  config.moe_blocks = {2, 3};
  Vit<B> vit(at, config, [&](const Scope<B>& scope, Index) -> AnyLayer<B> {
    return MoeLayer{scope,
                    MoeShape{.width = 8, .experts = 4},
                    TopKRouter{.k = 1},
                    CapacityFactor{.factor = factor},
                    FeedForward<Gelu>{.hidden = 4},
                    Importance{.weight = 0.1}};
  });
  return vit;
}
Vit<B> make_vit(B& cpu, double factor) {
  Vit<B> vit = make_vit(root(cpu), factor);
  vit.parameters().initialize(1);
  return vit;
}

}  // namespace

TEST_CASE("the routing in a network's tape is as it was after its backward") {
  B cpu;
  for (const double factor : {0.25, 1.0}) {
    const Vit<B> vit = make_vit(cpu, factor);
    const testing::GradientReport report =
        testing::check_gradients(vit, 8, {.most_inputs = 4, .most_per_entry = 2});
    CHECK_MESSAGE(report.passed, report.message);
  }
}

TEST_CASE("a network goes back once a forward, and not after one that was refused") {
  B cpu;
  const Vit<B> vit = make_vit(cpu, 1);
  auto tape = make_tape(vit, 4);
  const std::vector<double> x(4 * 64, 0.5), dy(4 * 3, 1.0);
  std::vector<double> y(4 * 3), dx(x.size());
  const auto forward = [&](const Pass<B>& pass) {
    return message_of([&] { vit.forward({x.data(), 4, 64}, {y.data(), 4, 3}, tape, pass); });
  };
  const auto backward = [&] {
    return message_of([&] { vit.backward({dy.data(), 4, 3}, {dx.data(), 4, 64}, tape); });
  };
  CHECK(forward({}) == "no error");
  CHECK(backward() == "no error");
  CHECK(backward().starts_with("moxie::Vit::backward: there was no forward on this tape since"));

  CHECK(forward({}) == "no error");
  const std::vector<std::int32_t> mask(3, 1);
  CHECK(forward({.mask = {mask.data(), 3}})
            .starts_with(
                "moxie::Vit::forward: pass.mask has 3 entries, expected one for each of the "));
  const Routes<B> far{.rank = 7};
  CHECK(forward(Pass<B>{}.with({&far, 1})).starts_with("moxie::MoeLayer::forward: pass.routes"));
  CHECK(backward().starts_with("moxie::Vit::backward: there was no forward on this tape since"));
  CHECK(forward({}) == "no error");
  CHECK(backward() == "no error");
}

TEST_CASE("parameters that were never initialized are named") {
  B cpu;
  const MoeLayer layer{root(cpu) / "Moe", MoeShape{.width = 2, .experts = 2}, TopKRouter{.k = 1},
                       CapacityFactor{}, FeedForward<Gelu>{.hidden = 2}};
  auto tape = layer.make_tape(2);
  const std::vector<double> x(4);
  std::vector<double> y(4);
  CHECK(message_of([&] {
          layer.forward({x.data(), 2, 2}, {y.data(), 2, 2}, tape);
        }).starts_with("moxie::Parameters: they are not initialized"));
}

TEST_CASE("a backward of many layers that threw halfway is not repeated") {
  test::FailingExecutor executor;
  B cpu(executor);
  const auto check = [&](const auto& model, const std::string& refusal) {
    CAPTURE(refusal);
    auto tape = make_tape(model, 8);
    const std::vector<double> x(8 * 64, 0.5), dy(8 * 3, 1.0);
    std::vector<double> y(8 * 3), dx(8 * 64);
    const auto forward = [&] { model.forward({x.data(), 8, 64}, {y.data(), 8, 3}, *tape, {}); };
    const auto backward = [&] {
      return message_of<std::exception>([&] {
        model.backward({dy.data(), 8, 3}, {dx.data(), 8, 64}, *tape);
      });
    };
    forward();
    const int before = executor.calls_left;
    CHECK(backward() == "no error");
    const int calls = before - executor.calls_left;
    CHECK(calls > 5);
    for (int fails = 0; fails < calls; ++fails) {
      CAPTURE(fails);
      executor.calls_left = test::FailingExecutor::endless;
      forward();
      executor.calls_left = fails;
      CHECK(backward() == "no more");
      executor.calls_left = test::FailingExecutor::endless;
      CHECK(backward().starts_with(refusal));
    }
  };
  check(make_vit(cpu, 1), "moxie::Vit::backward: there was no forward on this tape since");
  const Scope<B> scope = root(cpu);
  const DualModel dual{make_vit(scope / "Standard", 1), make_vit(scope / "Robust", 1), {}};
  scope.parameters->initialize(1);
  check(dual, "moxie::DualModel::backward: there was no forward on this tape since");
}

TEST_CASE("an AnyLayer refuses a tape that it did not make") {
  B cpu;
  const AnyLayer<B> vit = make_vit(cpu, 1);
  AnyTape<B> tape;
  const std::vector<double> x(64);
  std::vector<double> y(3);
  CHECK(message_of([&] {
          vit.forward({x.data(), 1, 64}, {y.data(), 1, 3}, tape, {});
        }) == "moxie::AnyLayer: this tape was never bound: make it with make_tape of this layer");
}

TEST_CASE("attention refuses a tape that was made for other workers") {
  ThreadPool two(2);
  ThreadPool three(3);
  B cpu(two);
  const Scope<B> scope = root(cpu);
  const SelfAttention<B> attention(scope, {.tokens = 4, .width = 8, .heads = 2});
  scope.parameters->initialize(1);
  auto tape = make_tape(attention, 8);
  const std::vector<double> x(64, 0.5);
  std::vector<double> y(64, 7.0);
  const auto forward = [&] {
    return message_of<config_error>([&] {
      attention.forward({x.data(), 8, 8}, {y.data(), 8, 8}, *tape, {});
    });
  };
  cpu = B(three);
  CHECK(forward() == "moxie::CpuBackend: the executor has 3 workers, the tape was made for 2");
  cpu = B(two);
  CHECK(forward() == "no error");
}

TEST_CASE("a tape of a negative number of rows is refused") {
  B cpu;
  const Vit<B> vit = make_vit(cpu, 1);
  CHECK(message_of([&] { (void)make_tape(vit, -5); }) ==
        "moxie::make_tape: rows is -5, expected >= 0");
}

}  // namespace refused_pass_test
