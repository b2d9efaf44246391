// What most consumers build: one step of a small layer. Ends with 0 if an error gets through and the step gave numbers.
#include <cmath>
#include <moxie/moxie.hpp>
#include <vector>

int main() {
  moxie::CpuBackend<float> cpu;
  const moxie::MoeLayer layer{cpu,
                              {.width = 8, .experts = 4},
                              moxie::TopKRouter{.k = 2},
                              moxie::Dropless{},
                              moxie::FeedForward<moxie::Gelu>{.hidden = 16}};
  auto tape = layer.make_tape(16);
  std::vector<float> x(16 * 8, 0.5F), y(x.size()), dy(x.size(), 0.1F), dx(x.size());
  layer.forward({x.data(), 16, 8}, {y.data(), 16, 8}, tape, {.mode = moxie::Mode::train});
  layer.backward({dy.data(), 16, 8}, {dx.data(), 16, 8}, tape);
  bool refused = false;
  try {
    layer.forward({x.data(), 16, 7}, {y.data(), 16, 8}, tape, {});
  } catch (const moxie::shape_error&) {
    refused = true;
  }
  return refused && std::isfinite(y[0]) && y[0] != 0 && dx[0] != 0 ? 0 : 1;
}
