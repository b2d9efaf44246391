// Names that there are not, and options that do not go together.
#include <doctest/doctest.h>

#include <cmath>
#include <utility>

#include "runtime/refusals.hpp"

namespace make_layer_refusals_test {

using namespace moxie;
using namespace moxie::test;
using B = CpuBackend<double>;

TEST_CASE("a name that there is not is refused with the nearest one") {
  CHECK(refused([](MoeConfig& c) { c.router.name = "softmax_token_choise"; }) ==
        "moxie::RouterRegistry::make: there is no router 'softmax_token_choise' (did you mean "
        "'softmax_token_choice'?), expected one of: softmax_token_choice, sinkhorn_token_choice, "
        "softmax_expert_choice, sinkhorn_expert_choice, sparse_expert_choice, "
        "sparse_token_choice, sigmoid_token_choice, hash, uniform, soft");
  CHECK(refused([](MoeConfig& c) {
          c.router.name = "sofd";
        }).find("there is no router 'sofd' (did you mean 'soft'?)") != std::string::npos);
  CHECK(refused([](MoeConfig& c) { c.router.gate = "cosin"; }) ==
        "moxie::make_gate: there is no gate 'cosin' (did you mean 'cosine'?), expected one of: "
        "linear, cosine");
  CHECK(refused([](MoeConfig& c) { c.expert.kind = "swigul"; }) ==
        "moxie::make_expert: there is no expert 'swigul' (did you mean 'swiglu'?), expected one "
        "of: mlp, swiglu, geglu");
  const std::string noise =
      "moxie::make_noise: there is no noise 'gausian' (did you mean 'gaussian'?), expected one "
      "of: gaussian, gaussian_absolute, gumbel";
  for (const char* router : {"softmax_token_choice", "soft"})
    for (const double scale : {0.0, 0.5})
      CHECK(refused(
                [&](MoeConfig& c) {
                  c.router.noise_kind = "gausian";
                  c.router.noise = scale;
                },
                router) == noise);
  const auto contains = [](const std::string& text, const char* part) {
    CAPTURE(text);
    CHECK(text.find(part) != std::string::npos);
  };
  contains(refused([](MoeConfig& c) { c.capacity.rule = "cell"; }),
           "there is no capacity 'cell' (did you mean 'ceil'?)");
  contains(refused([](MoeConfig& c) { c.capacity.eval_rule = "dropeless"; }),
           "there is no capacity 'dropeless' (did you mean 'dropless'?)");
  contains(refused([](MoeConfig& c) { c.capacity.priority = "frist"; }),
           "there is no priority 'frist' (did you mean 'first'?)");
  contains(refused([](MoeConfig& c) { c.capacity.overflow = "next"; }),
           "there is no overflow policy 'next', expected one of: drop, next_choice, identity");
  contains(refused([](MoeConfig& c) { c.regularizers = {{.name = "router-z"}}; }),
           "there is no regularizer 'router-z' (did you mean 'router_z'?)");
}

TEST_CASE("make_layer says why options do not go together") {
  const auto plan = [](MoeConfig& c) { c.router.combine_source = CombineSource::plan; };
  for (const char* router :
       {"softmax_token_choice", "softmax_expert_choice", "sigmoid_token_choice", "hash", "uniform"})
    CHECK(refused(plan, router) ==
          "moxie::RouterRegistry: router '" + std::string(router) +
              "' cannot use combine_source plan (it makes no plan): expected softmax_noisy or "
              "softmax_clean");
  for (const char* router : {"sparse_token_choice", "sparse_expert_choice"})
    CHECK(refused(plan, router) ==
          "moxie::RouterRegistry: router '" + std::string(router) +
              "' cannot use combine_source plan (it weighs by the softmax alone): expected "
              "softmax_noisy or softmax_clean");
  for (const char* router : {"sinkhorn_token_choice", "sinkhorn_expert_choice"})
    CHECK(refused(plan, router) == "no error");

  const auto bias = [](MoeConfig& c) { c.router.bias_rate = 0.5; };
  for (const std::string& router : router_names<B>()) {
    CAPTURE(router);
    const std::string why = refused(bias, router);
    if (router == "softmax_token_choice" || router == "sigmoid_token_choice") {
      CHECK(why == "no error");
    } else {
      CHECK(why == "moxie::RouterRegistry: router '" + router +
                       "' cannot use bias_rate 0.5 (loss-free balancing biases the scores of "
                       "softmax_token_choice and sigmoid_token_choice): expected 0");
    }
  }
  CHECK(refused(bias, "soft") ==
        "moxie::make_layer: router 'soft' cannot use bias_rate 0.5 (it chooses nothing): "
        "expected 0");
  CHECK(refused([](MoeConfig& c) { c.router.bias_rate = -1; }) ==
        "moxie::BiasBalance: rate is -1, expected a finite number >= 0");

  const auto noise = [](MoeConfig& c) { c.router.noise = 0.5; };
  for (const auto& [router, why] :
       {std::pair{"sigmoid_token_choice", "its sigmoid scores are balanced by bias_rate"},
        {"hash", "it looks at no logits"},
        {"uniform", "it looks at no logits"},
        {"sparse_token_choice", "its plan is made of the logits without noise"},
        {"sparse_expert_choice", "its plan is made of the logits without noise"}})
    CHECK(refused(noise, router) == "moxie::RouterRegistry: router '" + std::string(router) +
                                        "' cannot use noise 0.5 (" + why + "): expected 0");
  for (const std::string& router : all_routers<B>())
    if (takes_noise(router)) CHECK(refused(noise, router) == "no error");

  const auto renormalize = [](MoeConfig& c) { c.router.renormalize = true; };
  for (const std::string& router : all_routers<B>()) {
    CAPTURE(router);
    const std::string why = router == "soft"         ? "it chooses nothing"
                            : experts_choose(router) ? "its experts choose tokens, which have no "
                                                       "k weights"
                            : router == "hash" || router == "uniform" ? "its weights are 1 / k"
                                                                      : "";
    const std::string who = router == "soft" ? "moxie::make_layer" : "moxie::RouterRegistry";
    CHECK(refused(renormalize, router) ==
          (why.empty() ? "no error"
                       : who + ": router '" + router + "' cannot use renormalize true (" + why +
                             "): expected false or none"));
    CHECK(refused([](MoeConfig& c) { c.router.renormalize = false; }, router) == "no error");
  }
  const auto gumbel = [](MoeConfig& c) {
    c.router.noise = 0.5;
    c.router.noise_kind = "gumbel";
  };
  CHECK(refused(gumbel, "soft") ==
        "moxie::make_layer: router 'soft' takes Gaussian noise only, got 'gumbel'");
  CHECK(refused(gumbel) == "no error");
  for (const char* router : {"softmax_token_choice", "soft"})
    CHECK(refused([](MoeConfig& c) { c.router.noise = -1; }, router).find(" is -1, expected ") !=
          std::string::npos);

  for (const char* loss : {"load", "tutel_load"})
    for (const char* router : {"softmax_token_choice", "sigmoid_token_choice", "hash"}) {
      CHECK(refused([&](MoeConfig& c) { c.regularizers = {{.name = loss}}; }, router) ==
            "moxie::make_layer: the loss '" + std::string(loss) + "' needs noise, and router '" +
                router +
                "' has none: give it noise (or another router, if it takes none), or leave the "
                "loss out");
      CHECK(refused([&](MoeConfig& c) { c.regularizers = {{.name = loss, .weight = 0.0}}; },
                    router) == "no error");
    }
  CHECK(refused([](MoeConfig& c) {
          c.router.noise = 1;
          c.regularizers = {{.name = "load"}, {.name = "tutel_load"}};
        }) == "no error");
  for (const char* loss : {"load", "switch_topk", "switch_balance", "tutel_load"}) {
    CAPTURE(loss);
    CHECK(refused([&](MoeConfig& c) { c.regularizers = {{.name = loss}}; }, "soft") ==
          "moxie::make_regularizers: '" + std::string(loss) +
              "' reads choices or noisy logits, which this router's kind of routing does not have");
  }

  const auto jitter = [](MoeConfig& c) { c.router.jitter = 0.1; };
  CHECK(refused(jitter, "hash") ==
        "moxie::make_layer: router 'hash' brings its own gate: gate 'linear' and jitter 0.1 are "
        "not for it");
  CHECK(refused(jitter, "soft") ==
        "moxie::make_layer: router 'soft' has a gate of its own, which scores slots: gate "
        "'linear' and jitter 0.1 are not for it");
  CHECK(refused([](MoeConfig& c) { c.router.jitter = 1; }) ==
        "moxie::InputJitter: epsilon is 1, expected at least 0 and below 1");
  CHECK(refused([](MoeConfig& c) { c.router.k = 4; }) ==
        "moxie::TopKRouter: k is 4, expected 1 to 3 (the number of experts)");
  CHECK(refused([](MoeConfig& c) { c.router.k = 4; }, "hash") ==
        "moxie::HashRouter: k is 4, expected 1 to 3 (the number of experts)");
  CHECK(refused([](MoeConfig& c) { c.capacity.eval_rule = "dropless"; }, "softmax_expert_choice") ==
        refusal("softmax_expert_choice", "capacity", "dropless", "a capacity factor or none"));
  CHECK(refused([](MoeConfig& c) { c.capacity.slots.reset(); }, "soft") ==
        "moxie::MoeLayer: the slots of a soft router depend on shape.group, which is 0: give it "
        "the tokens of one image, or a FixedCapacity");
}

TEST_CASE("a capacity that says two things, or one without effect, is refused by name") {
  const auto said = [](const CapacityConfig& capacity) {
    return refused([&](MoeConfig& c) { c.capacity = capacity; });
  };
  for (const double bad : {-1.0, 0.0, std::nan("")})
    CHECK(said({.eval_factor = bad}) == "moxie::make_capacity: eval_factor is " +
                                            moxie::detail::message(bad) +
                                            ", expected a number > 0, or none (as in training)");
  for (const Index bad : {-3, 0})
    CHECK(said({.slots = bad}) == "moxie::make_capacity: slots is " + std::to_string(bad) +
                                      ", expected >= 1, or none (by rule and factor)");
  CHECK(said({.factor = 1.5, .slots = 3}) ==
        "moxie::make_capacity: factor is 1.5 beside slots 3, expected one of the two");
  CHECK(said({.rule = "vmoe", .slots = 3}) ==
        "moxie::make_capacity: rule is 'vmoe' beside slots 3, expected one of the two");
  CHECK(said({.multiple_of = 4, .slots = 3}) ==
        "moxie::make_capacity: multiple_of is 4 beside slots 3, expected 1: a number of slots is "
        "not rounded");
  CHECK(said({.rule = "dropless", .factor = 2}) ==
        "moxie::make_capacity: factor is 2 beside rule 'dropless', which has none, expected "
        "another rule or no factor");
  CHECK(said({.rule = "dropless", .eval_factor = 2}) ==
        "moxie::make_capacity: eval_factor is 2 beside rule 'dropless', which has none, expected "
        "another eval_rule or no eval_factor");
  CHECK(said({.eval_rule = "dropless", .eval_factor = 2}) ==
        "moxie::make_capacity: eval_factor is 2 beside eval_rule 'dropless', which has none, "
        "expected another eval_rule or no eval_factor");
  CHECK(said({.eval_priority = "bpt"}).find("there is no priority 'bpt' (did you mean 'bpr'?)") !=
        std::string::npos);
  for (const char* router : {"softmax_expert_choice", "soft"})
    CHECK(refused([](MoeConfig& c) { c.capacity.eval_priority = "bpr"; }, router) ==
          refusal(router, "eval_priority", "bpr", "first"));
}

TEST_CASE("blocks, shared experts and a residual layer that make no sense are refused") {
  for (const std::string& router : all_routers<B>()) {
    CAPTURE(router);
    const std::string why = refused([](MoeConfig& c) { c.router.blocks = 3; }, router);
    if (router == "softmax_token_choice") {
      CHECK(why == "no error");
    } else {
      CHECK(why.find(": router '" + router + "' cannot use blocks 3 (") != std::string::npos);
    }
  }
  CHECK(refused([](MoeConfig& c) { c.router.blocks = 2; }) ==
        "moxie::EnsembleBlocks: members is 2, expected a divisor of 3 (the number of experts)");
  CHECK(refused([](MoeConfig& c) { c.router.block_rows = 4; }) ==
        "moxie::RouterRegistry: router 'softmax_token_choice' cannot use block_rows 4 (there is "
        "one block): expected 1");
  CHECK(refused([](MoeConfig& c) {
          c.router.blocks = 3;
          c.router.bias_rate = 0.1;
        }) ==
        "moxie::RouterRegistry: router 'softmax_token_choice' cannot use bias_rate 0.1 (it could "
        "lift experts outside a row's block): expected 0");
  CHECK(refused([](MoeConfig& c) { c.shared.hidden = 4; }) ==
        "moxie::make_layer: shared.number is 0 and shared.hidden 4, expected 0 of both, or a "
        "number >= 1 and hidden >= 0");
  CHECK(refused([](MoeConfig& c) {
          c.shared.number = 1;
          c.residual = true;
        }) ==
        "moxie::make_layer: residual is true and shared.number 1, expected one of them: both are "
        "a perceptron beside the mixture");
}

}  // namespace make_layer_refusals_test
