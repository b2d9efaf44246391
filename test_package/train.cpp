// Trains a small layer for a few steps; ends with 0 if its error fell to less than a half.
#include <cmath>
#include <cstdio>
#include <moxie/backend/cpu.hpp>
#include <moxie/capacity/dropless.hpp>
#include <moxie/expert/feed_forward.hpp>
#include <moxie/layer/moe_layer.hpp>
#include <moxie/optimizer/sgd.hpp>
#include <moxie/router/top_k.hpp>
#include <vector>

int main() {
  using B = moxie::CpuBackend<float>;
  constexpr moxie::Index tokens = 32;
  constexpr moxie::Index width = 8;
  B cpu;
  const moxie::MoeLayer layer{cpu,
                              {.width = width, .experts = 4, .seed = 1},
                              moxie::TopKRouter{.k = 2},
                              moxie::Dropless{},
                              moxie::FeedForward<moxie::Relu>{.hidden = 32}};
  auto tape = layer.make_tape(tokens);
  const moxie::Sgd sgd{.momentum = 0.9};
  moxie::Sgd::State<B> state{sgd, layer.parameters()};

  std::vector<float> x(tokens * width), y(x.size()), dy(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(0.7F * static_cast<float>(i));
  float first = 0;
  float error = 0;
  for (std::uint64_t step = 0; step < 100; ++step) {
    layer.parameters().zero_gradients();
    layer.forward({x.data(), tokens, width}, {y.data(), tokens, width}, tape,
                  {.mode = moxie::Mode::train, .seed = 1, .step = step});
    error = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {  // the layer is to give its input back
      error += (y[i] - x[i]) * (y[i] - x[i]);
      dy[i] = 2 * (y[i] - x[i]) / static_cast<float>(tokens);
    }
    if (step == 0) first = error;
    layer.backward({dy.data(), tokens, width}, {}, tape);
    sgd.update(layer.parameters(), layer.parameters().range(), state, 0.02);
  }
  std::printf("squared error: %.3g at first, %.3g after 100 steps\n", static_cast<double>(first),
              static_cast<double>(error));
  return error < first / 2 ? 0 : 1;
}
