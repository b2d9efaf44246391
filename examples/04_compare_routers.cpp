// Every router of the registry on the same tokens: whom they choose, what overflows, how even the load is.
#include <cmath>
#include <cstdio>
#include <moxie/moxie.hpp>
#include <moxie/optimizer/adam_w.hpp>
#include <moxie/runtime/make_layer.hpp>
#include <string>
#include <vector>

using B = moxie::CpuBackend<double>;
constexpr moxie::Index features = 16, count = 256;

/// Tokens of two kinds, three of one to one of the other, so that an even load takes some doing.
struct Data {
  std::vector<double> x = std::vector<double>(count * features), wanted = x;
  Data() {
    const moxie::Random random{1, 0, 0};
    for (std::size_t i = 0; i < x.size(); ++i) {
      const bool common = i / features % 4 != 0;
      x[i] = random.normal(i, 0) + (common ? 1.0 : -1.0);
      wanted[i] = common ? std::tanh(x[i]) : -x[i];
    }
  }
};

/// A few steps of training; the routing of the last, and whether the error fell to less than a half.
void compare(B& cpu, const std::string& name, const Data& data) {
  moxie::MoeConfig config;
  config.shape = {.width = features, .experts = 4, .group = 64};
  config.router = {.name = name, .k = 2};
  config.expert = {.kind = "mlp", .hidden = 32};
  // a factor counts rows an expert in units of k tokens; experts that choose have no k
  if (name.ends_with("expert_choice")) config.capacity.factor = 2.0;
  const moxie::AnyLayer<B> layer = moxie::make_layer(moxie::root(cpu), config);
  layer.parameters().initialize(/*seed=*/1);

  const moxie::AdamW adam;
  moxie::AdamW::State<B> state{adam, layer.parameters()};
  auto tape = moxie::make_tape(layer, count);
  std::vector<double> y(data.x.size()), dy(y.size());
  moxie::RoutingStatistics start;
  double first = 0, last = 0;
  for (std::uint64_t step = 0; step < 100; ++step) {
    layer.parameters().zero_gradients();
    layer.forward({data.x.data(), count, features}, {y.data(), count, features}, tape,
                  {.step = step});
    last = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      const double error = y[i] - data.wanted[i];
      last += error * error;
      dy[i] = 2 * error / static_cast<double>(y.size());
    }
    if (step == 0) {
      first = last;
      moxie::RoutingTelemetry<B> telemetry{cpu};
      telemetry.begin_pass();
      layer.visit_routing(tape, telemetry);
      start = telemetry.read()[0];
    }
    layer.backward({dy.data(), count, features}, {}, tape);
    adam.update(layer.parameters(), layer.parameters().range(), state, 1e-2);
    layer.parameters().after_step();
  }
  std::printf("%-25s %17.2f %11.1f %7.2f   %s\n", name.c_str(), start.experts_per_token(),
              100 * start.drop_rate(), start.coefficient_of_variation(),
              last < first / 2 ? "yes" : "no");
}

int main() {
  B cpu;
  const Data data;
  std::printf("before training           experts of a token  dropped, %%  load CV   learns\n");
  const moxie::RouterRegistry<B> registry;  // a router of one's own would be added here
  for (const std::string_view name : registry.names()) compare(cpu, std::string(name), data);
  compare(cpu, "soft", data);
}
