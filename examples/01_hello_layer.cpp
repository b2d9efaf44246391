// A mixture-of-experts layer, one step of its life: five lines choose everything.
#include <cstdio>
#include <moxie/moxie.hpp>
#include <vector>

int main() {
  moxie::CpuBackend<float> cpu;
  moxie::MoeLayer layer{cpu,
                        {.width = 64, .experts = 8},
                        moxie::TopKRouter{.k = 2},
                        moxie::CapacityFactor{.factor = 1.25},
                        moxie::FeedForward<moxie::Gelu>{.hidden = 128},
                        moxie::Importance{.weight = 0.01}};
  auto tape = layer.make_tape(/*max_tokens=*/256);

  std::vector<float> x(256 * 64), y(x.size()), dy(x.size(), 0.1F), dx(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * i % 101) / 50 - 1;
  layer.forward({x.data(), 256, 64}, {y.data(), 256, 64}, tape,
                {.mode = moxie::Mode::train, .step = 1});
  layer.backward({dy.data(), 256, 64}, {dx.data(), 256, 64}, tape);

  const auto& routing = tape->routing;
  std::printf("%td parameters, %td slots an expert\n", layer.parameters().size(),
              routing.shape.capacity);
  std::printf("rows of each expert:");
  for (moxie::Index e = 0; e < 8; ++e)
    std::printf(" %d", routing.offset[e + 1] - routing.offset[e]);
  std::printf("\nimportance loss: %.1e\n", static_cast<double>(layer.read_losses(tape)[0]));
}
