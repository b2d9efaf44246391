#include <benchmark/benchmark.h>

#include <cstdio>
#include <string>
#include <vector>

#include "context.hpp"
#include "gpu/event_timing.hpp"
#include "gpu/stages.hpp"

// A mixture-of-experts layer on a GPU, forward and backward, at the shapes of V-MoE S, B and L and E experts (K = 2), against
// dense products of cuBLAS of as many multiply-adds in the same run, and stage by stage.
//
// A row is one layer. Its time is the median time on the GPU of a forward; counters are medians in milliseconds, taken in turn
// with it: forward_backward; gate, route, maps (slots and rows), products (of the experts alone), combine; padded (the same
// multiply-adds as one strided batch) and dense (as one product). rate = dense / products, layer = forward / products,
// routing = (route + maps) / forward.

namespace {

using bench::Index;

struct Shape {
  const char* name;
  Index width, hidden;
};
constexpr Shape shapes[] = {{"vmoe-s", 512, 2048}, {"vmoe-b", 768, 3072}, {"vmoe-l", 1024, 4096}};

/// range(0): experts, range(1): tokens.
void layer(benchmark::State& state, const Shape& shape, bool dropless, bool tf32) {
  const bench::Sizes sizes{.tokens = state.range(1),
                           .width = shape.width,
                           .hidden = shape.hidden,
                           .experts = state.range(0),
                           .choices = 2};
  moxie::CudaStream stream;
  bench::B backend(moxie::CudaLeaf(stream.get(), {.tf32 = tf32}));
  const moxie::AnyCapacity capacity =
      dropless ? moxie::AnyCapacity(moxie::Dropless{})
               : moxie::AnyCapacity(moxie::CapacityFactor{.factor = 1.25});
  bench::WholeLayer whole(backend, sizes, capacity);
  whole.forward();
  bench::Stages stages(backend, sizes, whole.routing());
  const std::vector<double> seconds =
      bench::device_medians(stream.get(), 20, 5,
                            {[&] { whole.forward(); }, [&] { whole.forward_and_backward(); },
                             [&] { stages.gate(); }, [&] { stages.route(); },
                             [&] { stages.maps(); }, [&] { stages.products(); },
                             [&] { stages.padded_products(); }, [&] { stages.dense_products(); },
                             [&] { stages.combine(); }});
  for (auto _ : state) state.SetIterationTime(seconds[0]);
  const char* names[] = {"forward", "forward_backward", "gate",  "route",  "maps",
                         "products", "padded",          "dense", "combine"};
  for (std::size_t i = 1; i < seconds.size(); ++i) state.counters[names[i]] = 1e3 * seconds[i];
  state.counters["rate"] = seconds[7] / seconds[5];
  state.counters["layer"] = seconds[0] / seconds[5];
  state.counters["routing"] = (seconds[3] + seconds[4]) / seconds[0];
}

std::string device_name() {
  cudaDeviceProp properties{};
  return cudaGetDeviceProperties(&properties, 0) == cudaSuccess ? properties.name : "";
}

}  // namespace

int main(int argc, char** argv) {
  const std::string device = device_name();
  if (device.empty()) {
    std::printf("skipped: no CUDA device (%s)\n", cudaGetErrorString(cudaGetLastError()));
    return 77;
  }
  const std::string command = bench::command_of(argc, argv);
  for (const Shape& shape : shapes)
    for (const bool tf32 : {false, true})
      for (const bool dropless : {false, true})
        benchmark::RegisterBenchmark(
            (std::string(shape.name) + (dropless ? "/dropless" : "/capacity") +
             (tf32 ? "/tf32" : "/fp32"))
                .c_str(),
            [=](benchmark::State& state) { layer(state, shape, dropless, tf32); })
            ->ArgNames({"experts", "tokens"})
            ->ArgsProduct({{8, 32, 128}, {8192}})
            ->Iterations(1)
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  bench::add_context(command, "fixed: parameters 1, inputs 1 to 11");
  benchmark::AddCustomContext("gpu", device);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
