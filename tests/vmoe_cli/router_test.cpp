// Routers, capacities and losses by their flags.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <string>

#include "program.hpp"

using namespace cli;
using fixtures::Containing;
using fixtures::TemporaryFolder;
using nlohmann::json;

namespace {

const char* const routers[] = {"softmax_token_choice",
                               "sinkhorn_token_choice",
                               "sparse_token_choice",
                               "sigmoid_token_choice",
                               "softmax_expert_choice",
                               "sinkhorn_expert_choice",
                               "sparse_expert_choice",
                               "soft",
                               "hash",
                               "uniform"};

json read_json(const std::filesystem::path& path) { return json::parse(read_file(path)); }

void must_run(const Arguments& arguments) {
  const Ending ending = run(arguments);
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
}

}  // namespace

TEST_CASE("every router trains, evaluates and shows its routes") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  for (const std::string router : routers) {
    CAPTURE(router);
    const auto out = folder / router;
    must_run(train(data, out) + Arguments{"--router", router});
    const json last = metrics(out).back();
    for (const json& layer : last.at("layers")) {
      double load = 0;
      for (const json& share : layer.at("load")) load += share.get<double>();
      CHECK(load == doctest::Approx(1));
      CHECK(layer.at("experts_per_token").get<double>() > 0);
    }
    const json routing = read_json(out / "routing.json");
    CHECK(routing.at("router") == router);
    REQUIRE(!routing.at("images").empty());
    CHECK(routing.at("images")[0].at("routes").size() == last.at("layers").size());
    const Ending ending = run({"eval", out});
    REQUIRE_MESSAGE(ending.code == 0, ending.err);
    CHECK(json::parse(ending.out).at("loss") == last.at("loss"));
  }
}

TEST_CASE("a router's own defaults stand unless a flag says otherwise") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto options = [&](const char* name, const Arguments& more) {
    must_run(train(data, folder / name) + more);
    return read_json(folder / name / "config.json").at("options");
  };
  const json choice = options("choice", {"--router", "softmax_expert_choice"});
  CHECK(choice.at("importance") == 0);
  CHECK(choice.at("noise") == 1);
  CHECK(choice.at("group_images") == 4);  // a flag of train()
  CHECK(choice.at("capacity_factor") == choice.at("k"));
  const json soft = options("soft", {"--router", "soft", "--importance", "0.01", "--slots", "3"});
  CHECK(soft.at("importance") == 0.01);
  CHECK(soft.at("noise") == 0);
  CHECK(soft.at("capacity_multiple") == 1);
}

TEST_CASE("a biased, jittered, gated model goes on bit for bit") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const Arguments all = {"--router",
                         "sigmoid_token_choice",
                         "--bias-rate",
                         "0.01",
                         "--jitter",
                         "0.02",
                         "--gate",
                         "cosine",
                         "--expert",
                         "swiglu",
                         "--losses",
                         "router_z=0.001,switch_balance",
                         "--overflow",
                         "next_choice",
                         "--capacity-factor",
                         "0.5"};
  must_run(train(data, folder / "whole") + all);
  must_run(train(data, folder / "half") + all +
           Arguments{"--checkpoint-every", "2", "--keep", "100"});
  const auto wanted = tensors(newest_checkpoint(folder / "whole"));
  CHECK(std::any_of(wanted.begin(), wanted.end(), [](const auto& t) {
    return t.first.find("Router/bias") != std::string::npos;
  }));
  CHECK(tensors(newest_checkpoint(folder / "half")) == wanted);
  std::vector<std::filesystem::path> checkpoints;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "half" / "checkpoint"))
    checkpoints.push_back(entry.path());
  std::sort(checkpoints.begin(), checkpoints.end());
  REQUIRE(checkpoints.size() > 2);
  const auto newest = newest_checkpoint(folder / "half");
  for (const auto& path : checkpoints)
    if (path != checkpoints.front()) std::filesystem::remove(path);
  must_run({"train", "--resume", folder / "half"});
  CHECK(newest_checkpoint(folder / "half") == newest);
  CHECK(tensors(newest) == wanted);
}

TEST_CASE("a combination that makes no sense says why") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto refused = [&](const Arguments& more) {
    const Ending ending = run(train(data, folder / "runs" / "run") + more);
    CHECK(ending.code == 2);
    CHECK_FALSE(std::filesystem::exists(folder / "runs"));
    return ending.err;
  };
  CHECK(refused({"--router", "sinkhorn_expert_choise"}) ==
        Containing("there is no router 'sinkhorn_expert_choise' (did you mean "
                   "'sinkhorn_expert_choice'?)"));
  CHECK(refused({"--router", "soft", "--capacity", "dropless"}) ==
        Containing("router 'soft' cannot use capacity 'dropless'"));
  CHECK(refused({"--router", "softmax_expert_choice", "--priority", "bpr"}) ==
        Containing("router 'softmax_expert_choice' cannot use priority 'bpr'"));
  CHECK(refused({"--router", "soft", "--losses", "switch_balance"}) ==
        Containing("'switch_balance' reads choices"));
  CHECK(refused({"--combine", "plan"}) == Containing("makes no plan"));
  CHECK(refused({"--losses", "router_z=much"}) ==
        Containing("losses has 'router_z=much', expected NAME or NAME=WEIGHT"));
  CHECK(refused({"--losses", "pairwise_l2=0.1"}) ==
        Containing("losses has 'pairwise_l2', which compares two views of an image"));
  CHECK(refused({"--losses", "zloss"}) == Containing("there is no regularizer 'zloss'"));
  CHECK(refused({"--router", "sinkhorn_token_choice", "--bias-rate", "0.1"}) ==
        Containing("cannot use bias_rate"));
  CHECK(refused({"--gate", "quadratic"}) == Containing("there is no gate 'quadratic'"));
  CHECK(refused({"--router", "hash", "--noise", "1"}) ==
        Containing("router 'hash' cannot use noise 1 (it looks at no logits): expected 0"));
  CHECK(refused({"--router", "uniform", "--renormalize"}) ==
        Containing("router 'uniform' cannot use renormalize true"));
  CHECK(refused({"--eval-priority", "bpt", "--eval-capacity-factor", "1"}) ==
        Containing("there is no priority 'bpt' (did you mean 'bpr'?)"));
  CHECK(refused({"--slots", "-3"}) == Containing("slots is -3, expected >= 1"));
  CHECK(refused({"--capacity", "dropless", "--eval-capacity-factor", "2"}) ==
        Containing("eval_factor is 2 beside eval_rule 'dropless'"));
  CHECK(refused({"--residual", "--shared-hidden", "8"}) ==
        Containing("shared_hidden is 8, expected 0 beside residual"));
  CHECK(refused({"--overflow", "wait"}) == Containing("there is no overflow policy 'wait'"));
}

TEST_CASE("a flag that another leaves without effect is refused, but not the same run's file") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto refused = [&](const Arguments& more) {
    const Ending ending = run(train(data, folder / "runs" / "run") + more);
    CHECK(ending.code == 2);
    CHECK_FALSE(std::filesystem::exists(folder / "runs"));
    return ending.err;
  };
  CHECK(refused({"--slots", "3", "--capacity-factor", "1.5"}) ==
        Containing("--capacity-factor is 1.5, but --slots gives the slots of an expert; expected "
                   "one of the two flags"));
  CHECK(refused({"--capacity", "dropless", "--capacity-factor", "1.5"}) ==
        Containing("--capacity-factor is 1.5, but --capacity dropless has no factor"));
  for (const char* sized : {"--capacity-factor", "--slots"})
    CHECK(refused({"--router", "softmax_expert_choice", sized, "2"}) ==  // train() gives --k 2
          Containing("--k is 2, but where experts choose, k is the default of --capacity-factor "
                     "only"));
  // All options stand in a run's configuration, also those that had no effect.
  must_run(train(data, folder / "first") + Arguments{"--slots", "3"});
  must_run({"train", "--config", folder / "first" / "config.json", "--out", folder / "second"});
  CHECK(tensors(newest_checkpoint(folder / "first")) ==
        tensors(newest_checkpoint(folder / "second")));
}

TEST_CASE("evaluation has its own priority") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  // Few slots, so that it matters who is served first.
  const Arguments few = {"--eval-capacity-factor", "0.3", "--capacity-multiple", "1"};
  must_run(train(data, folder / "first") + few);
  must_run(train(data, folder / "best") + few + Arguments{"--eval-priority", "bpr"});
  CHECK(tensors(newest_checkpoint(folder / "first")) ==
        tensors(newest_checkpoint(folder / "best")));
  const json first = metrics(folder / "first").back(), best = metrics(folder / "best").back();
  CHECK(first.at("dropped") == best.at("dropped"));
  CHECK(first.at("loss") != best.at("loss"));
}

TEST_CASE(
    "a shared expert and a residual perceptron train beside the experts and count in the twin") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto has = [&](const char* name, const char* part) {
    const auto all = tensors(newest_checkpoint(folder / name));
    return std::any_of(all.begin(), all.end(),
                       [&](const auto& t) { return t.first.find(part) != std::string::npos; });
  };
  const auto model = [&](const char* name) {
    return read_json(folder / name / "config.json").at("model");
  };
  must_run(train(data, folder / "shared") + Arguments{"--shared-hidden", "10"});
  CHECK(has("shared", "Moe/Shared/Dense_0/kernel"));
  must_run(train(data, folder / "residual") + Arguments{"--residual"});
  CHECK(has("residual", "Moe/coefficient/kernel"));
  CHECK(has("residual", "Moe/Residual/Dense_1/kernel"));
  must_run(train(data, folder / "dense") + Arguments{"--dense", "--shared-hidden", "10"});
  CHECK(model("dense").at("dense_hidden") == 32 + 10);  // K = 2 experts of 16 and the shared one
  must_run(train(data, folder / "plain"));
  const auto flops = [&](const char* name) {
    return model(name).at("active_flops_per_image").get<double>();
  };
  const double rows = 2 * model("plain").at("tokens").get<double>() * 16;  // 2 FLOPs, width 16
  CHECK(flops("shared") == flops("plain") + rows * 2 * 10);
  CHECK(flops("residual") == flops("plain") + rows * (2 * 16 + 2));  // and two coefficients
}
