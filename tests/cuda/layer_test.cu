#include "cuda/captured.hpp"
#include "cuda/counted_memory.hpp"
#include "layer/layers.hpp"
#include "moxie/backend/cpu.hpp"

namespace moxie::test {
namespace {

constexpr Index tokens = 48;

template <class B>
Config<B> config(std::string_view priority, const AnyCapacity& capacity) {
  return {.width = 8,
          .experts = 5,
          .hidden = 12,
          .priority = priority,
          .capacity = capacity,
          .importance = 0.1,
          .load = 0};
}

template <class B>
Passed<float> pass_of(B& backend, std::string_view priority, const AnyCapacity& capacity) {
  const Moe<B> layer = make_moe(backend, config<B>(priority, capacity));
  Runner<Moe<B>> runner(layer, tokens);
  return runner.run(normals(tokens * 8, 1), normals(tokens * 8, 2));
}

TEST_CASE("A MoE layer on the GPU gives the CPU's routes and numbers, forward and backward") {
  CpuBackend<float> cpu;
  CudaBackend<float> gpu;
  const auto in_double = [](const std::vector<float>& v) {
    return std::vector<double>(v.begin(), v.end());
  };
  for (const std::string_view priority : {"first", "bpr"}) {
    for (const AnyCapacity& capacity :
         {AnyCapacity(Dropless{}), AnyCapacity(CapacityFactor{.factor = 0.5})}) {
      CAPTURE(priority);
      const auto wanted = pass_of(cpu, priority, capacity);
      const auto got = pass_of(gpu, priority, capacity);
      CHECK(got.choice == wanted.choice);
      CHECK(got.row == wanted.row);
      check_near(got.weight, in_double(wanted.weight), 1e-5);
      check_near(got.y, in_double(wanted.y), 1e-4);
      check_near(got.dx, in_double(wanted.dx), 1e-4);
      check_near(got.gradients, in_double(wanted.gradients), 1e-4);
    }
  }
}

TEST_CASE("A MoE layer with experts of bf16 keeps its routes and comes near the exact one") {
  using B = CudaBackend<float>;
  B exact;
  B narrow(CudaLeaf(CudaOptions{.bf16_experts = Bf16Experts::always}));
  const auto wanted = pass_of(exact, "first", Dropless{});
  const auto got = pass_of(narrow, "first", Dropless{});
  CHECK(got.choice == wanted.choice);
  CHECK(got.weight == wanted.weight);
  CHECK(got.y != wanted.y);
  const auto check_rounded = [](const std::vector<float>& a, const std::vector<float>& b) {
    check_near(a, std::vector<double>(b.begin(), b.end()), 3e-2);
  };
  check_rounded(got.y, wanted.y);
  check_rounded(got.dx, wanted.dx);
  check_rounded(got.gradients, wanted.gradients);
}

TEST_CASE(
    "A step of a MoE layer takes no memory, and captured gives the bits of the enqueued one") {
  using B = CudaBackend<float>;
  CountedMemory memory;
  CudaStream stream;
  struct Case {
    AnyCapacity capacity;
    Bf16Experts bf16;
  };
  for (const Case& c : {Case{Dropless{}, Bf16Experts::never}, Case{Dropless{}, Bf16Experts::always},
                        Case{CapacityFactor{.factor = 1.25}, Bf16Experts::never}}) {
    const AnyCapacity& capacity = c.capacity;
    B backend(CudaLeaf(stream.get(), {.memory = &memory, .bf16_experts = c.bf16}));
    const Moe<B> layer = make_moe(backend, config<B>("first", capacity));
    auto tape = layer.make_tape(tokens, Gradients::all);
    const auto floats = [](const std::vector<double>& v) {
      return std::vector<float>(v.begin(), v.end());
    };
    const Buffer<float, B> x(backend, floats(normals(tokens * 8, 1)));
    const Buffer<float, B> dy(backend, floats(normals(tokens * 8, 2)));
    const Buffer<float, B> y(backend, tokens * 8, 99.0F);
    const Buffer<float, B> dx(backend, tokens * 8, 99.0F);
    const auto step = [&] {
      layer.parameters().zero_gradients();
      layer.forward(ConstMatrix<B>(x.view(tokens, 8)), y.view(tokens, 8), tape, Pass<B>{});
      layer.backward(ConstMatrix<B>(dy.view(tokens, 8)), dx.view(tokens, 8), tape);
    };
    const auto results = [&] {
      std::vector<float> all = y.to_vector();
      for (const auto& more :
           {dx.to_vector(), testing::detail::to_host(backend, layer.parameters().gradients())})
        all.insert(all.end(), more.begin(), more.end());
      return all;
    };
    const int before = memory.allocations;
    step();
    CHECK(memory.allocations == before);
    const auto wanted = results();
    backend.fill(y.view(), 99.0F);
    run_captured(stream.get(), 2, step);
    CHECK(results() == wanted);
  }
}

}  // namespace
}  // namespace moxie::test
