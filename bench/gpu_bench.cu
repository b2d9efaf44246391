#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <type_traits>
#include <vector>

#include "context.hpp"
#include "gpu/event_timing.hpp"
#include "gpu/stages.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/capacity/factor.hpp"

// A mixture-of-experts layer on a GPU, forward and backward, at the shapes of V-MoE S, B and L and 8 to 128 experts (K = 2), in
// tf32 and with experts of bf16 (in fp32, which takes longest, with 32 experts alone), against dense products of cuBLAS of as many
// multiply-adds and of the same type in the same run, and stage by stage.
//
// A row is one layer: dropless with ragged products, or with a capacity of 1.25 whose rows are padded for strided products. Its
// time is the median time on the GPU of a forward as in an evaluation; counters are medians in milliseconds, taken in turn with it:
// forward_backward, as in training; gate, route, maps (slots and rows), combine; ragged, padded and dense: the experts' products
// alone, by our kernels over the K T rows, as a strided batch, and as one dense layer of the batch's multiply-adds; the same of
// their backward. The batch has an expert's slots as its rows, or K T / E without a capacity. With experts of bf16, products take
// in the rounding of rows; that of the weights, once a step of training, is in forward_backward alone. rate = dense / own products,
// backward_rate the same of the backward, layer = forward / own products, routing = (route + maps) / forward, where the own products
// are the ragged or the padded ones.

namespace {

using bench::Index;

struct Shape {
  const char* name;
  Index width, hidden;
};
constexpr Shape shapes[] = {{"vmoe-s", 512, 2048}, {"vmoe-b", 768, 3072}, {"vmoe-l", 1024, 4096}};

/// range(0): experts, range(1): tokens.
template <class Router, class Capacity>
void layer(benchmark::State& state, const Shape& shape, const Capacity& capacity,
           bench::Factors factors) {
  constexpr bool padded = !std::is_same_v<Router, bench::Ragged>;
  bench::Sizes sizes{.tokens = state.range(1),
                     .width = shape.width,
                     .hidden = shape.hidden,
                     .experts = state.range(0),
                     .choices = 2};
  moxie::CudaStream stream;
  bench::B backend(moxie::CudaLeaf(stream.get(), bench::options_of(factors)));
  Router router;
  router.k = sizes.choices;
  bench::WholeLayer<Router, Capacity> whole(backend, sizes, router, capacity);
  whole.forward();
  sizes.each = padded ? whole.routing().shape.capacity : sizes.rows() / sizes.experts;
  bench::Stages stages(backend, sizes, whole.routing(), whole.parameters());
  bench::DenseProducts dense(backend, sizes, sizes.padded_rows(), factors);
  const std::vector<double> seconds = bench::device_medians(
      stream.get(), 20, 5,
      {[&] { whole.forward(); }, [&] { whole.forward_and_backward(); }, [&] { stages.gate(); },
       [&] { stages.route(); }, [&] { stages.maps(); }, [&] { stages.combine(); },
       [&] { stages.products(false); }, [&] { stages.products(true); }, [&] { dense.forward(); },
       [&] { stages.backward_products(padded); }, [&] { dense.backward(); }});
  for (auto _ : state) state.SetIterationTime(seconds[0]);
  const char* names[] = {"forward", "forward_backward", "gate",          "route",
                         "maps",    "combine",          "ragged",        "padded",
                         "dense",   "backward",         "dense_backward"};
  for (std::size_t i = 1; i < seconds.size(); ++i) state.counters[names[i]] = 1e3 * seconds[i];
  const double own = padded ? seconds[7] : seconds[6];
  state.counters["rate"] = seconds[8] / own;
  state.counters["backward_rate"] = seconds[10] / seconds[9];
  state.counters["layer"] = seconds[0] / own;
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
  struct Column {
    const char* name;
    bench::Factors factors;
    std::vector<std::int64_t> experts;
  };
  const Column columns[] = {{"/fp32", bench::Factors::fp32, {32}},
                            {"/tf32", bench::Factors::tf32, {8, 32, 128}},
                            {"/bf16", bench::Factors::bf16, {8, 32, 128}}};
  const auto add = [](const Shape& shape, const char* kind, const Column& column, const auto& run) {
    const std::string name = std::string(shape.name) + kind + column.name;
    benchmark::RegisterBenchmark(name.c_str(), run)
        ->ArgNames({"experts", "tokens"})
        ->ArgsProduct({column.experts, {8192}})
        ->Iterations(1)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  };
  for (const Shape& shape : shapes) {
    for (const Column& column : columns) {
      const bench::Factors factors = column.factors;
      add(shape, "/dropless", column, [=](benchmark::State& state) {
        layer<bench::Ragged>(state, shape, moxie::Dropless{}, factors);
      });
      add(shape, "/capacity", column, [=](benchmark::State& state) {
        layer<bench::Padded>(state, shape, moxie::CapacityFactor{.factor = 1.25}, factors);
      });
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  bench::add_context(command, "fixed: parameters 1, inputs 1 to 11");
  benchmark::AddCustomContext("gpu", device);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
