// A layer chosen by words, as a command line or a file has them:  08_choose_at_run_time router=soft slots=4
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <moxie/moxie.hpp>
#include <moxie/runtime/make_layer.hpp>
#include <string>
#include <vector>

using B = moxie::CpuBackend<float>;

/// Takes one word `name=value` into the configuration.
void set(moxie::MoeConfig& config, const std::string& word) {
  const std::size_t at = word.find('=');
  const std::string name = word.substr(0, at);
  const std::string value = at == std::string::npos ? "" : word.substr(at + 1);
  if (name == "router") {
    config.router.name = value;
  } else if (name == "k") {
    config.router.k = std::atol(value.c_str());
  } else if (name == "gate") {
    config.router.gate = value;
  } else if (name == "capacity") {
    config.capacity.rule = value;
  } else if (name == "factor") {
    config.capacity.factor = std::atof(value.c_str());
  } else if (name == "slots") {
    config.capacity.slots = std::atol(value.c_str());
  } else if (name == "expert") {
    config.expert.kind = value;
  } else if (name == "loss") {
    config.regularizers.push_back({.name = value, .weight = 0.01});
  } else {
    moxie::throw_config("there is no setting '", name, "'");
  }
}

/// One pass of the layer that the words describe.
void run(B& cpu, const std::vector<std::string>& words) {
  moxie::MoeConfig config;
  config.shape = {.width = 32, .experts = 8, .group = 64};
  config.expert.hidden = 64;
  for (const std::string& word : words) {
    std::printf("%s ", word.c_str());
    set(config, word);
  }
  const moxie::AnyLayer<B> layer = moxie::make_layer(moxie::root(cpu), config);
  layer.parameters().initialize(/*seed=*/1);
  auto tape = moxie::make_tape(layer, 128);
  std::vector<float> x(128 * 32), y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(0.7F * static_cast<float>(i));
  layer.forward({x.data(), 128, 32}, {y.data(), 128, 32}, tape, {.mode = moxie::Mode::train});
  moxie::RoutingTelemetry<B> telemetry{cpu};
  telemetry.begin_pass();
  layer.visit_routing(tape, telemetry);
  std::printf("\n  %td parameters, %.2f experts of a token\n", layer.parameters().size(),
              telemetry.read()[0].experts_per_token());
}

int main(int argc, char** argv) {
  B cpu;
  std::vector<std::vector<std::string>> choices{{argv + 1, argv + argc}};
  if (argc == 1)
    choices = {{"router=softmax_token_choice", "k=2", "capacity=dropless", "loss=switch_balance"},
               {"router=soft", "slots=4", "expert=swiglu"},
               {"router=sinkhorn_token_choice", "gate=cosine", "factor=1.5"},
               {"router=softmax_expert_choice", "capacity=dropless"},
               {"router=softmax_expert_choise"}};
  for (const auto& words : choices) try {
      run(cpu, words);
    } catch (const moxie::config_error& e) {  // before anything is computed
      std::printf("\n  refused: %s\n", e.what());
    }
}
