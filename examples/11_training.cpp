// Training by hand: what a loop around a layer has to do. For classifiers train/step.hpp does it.
#include <cmath>
#include <cstdio>
#include <moxie/moxie.hpp>
#include <moxie/optimizer/adam_w.hpp>
#include <vector>

int main() {
  using B = moxie::CpuBackend<double>;
  constexpr moxie::Index width = 16, tokens = 256;
  B cpu;
  // Experts choose among the tokens of a group: let it be one image, or images depend on their neighbours.
  const moxie::MoeLayer layer{cpu,
                              {.width = width, .experts = 4, .group = 64, .seed = 1},
                              moxie::SinkhornExpertChoiceRouter{},
                              moxie::CapacityFactor{.factor = 2},
                              moxie::SwiGLU{.hidden = 32},
                              moxie::RouterZ{.weight = 1e-3}};
  moxie::Parameters<B>& parameters = layer.parameters();
  const moxie::AdamW adam;
  moxie::AdamW::State<B> state{adam, parameters};
  auto tape = layer.make_tape(tokens);
  moxie::RoutingTelemetry<B> telemetry{cpu};

  std::vector<double> x(tokens * width), wanted(x.size()), y(x.size()), dy(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = std::sin(0.7 * static_cast<double>(i * (1 + i % 5)));
    wanted[i] = std::tanh(2 * x[i]) * ((i / width) % 2 == 1 ? 1 : -1);
  }
  double first = 0;
  double last = 0;
  for (std::uint64_t step = 0; step < 200; ++step) {
    parameters.zero_gradients();
    layer.forward({x.data(), tokens, width}, {y.data(), tokens, width}, tape,
                  {.mode = moxie::Mode::train, .seed = 1, .step = step});
    last = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      const double error = y[i] - wanted[i];
      last += error * error / static_cast<double>(y.size());
      dy[i] = 2 * error / static_cast<double>(y.size());
    }
    if (step == 0) first = last;
    layer.backward({dy.data(), tokens, width}, {}, tape);  // no gradient of x is wanted
    adam.update(parameters, parameters.range(), state, 1e-2);
    parameters
        .after_step();  // moves what is not trained by gradients: the bias of loss-free balancing

    telemetry.begin_pass();  // each pass begins with the first layer again
    layer.visit_routing(tape, telemetry);
  }
  const moxie::RoutingStatistics s = telemetry.read()[0];
  std::printf("the error fell to less than a half: %s\n", last < first / 2 ? "yes" : "no");
  std::printf("rows of each expert in all steps:");
  for (const double n : s.kept) std::printf(" %.0f", n);
  std::printf("\nexperts of a token: %.1f\n", s.experts_per_token());
}
