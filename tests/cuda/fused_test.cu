// Strided products of experts with bias and Gelu by cuBLASLt.
#include "cuda/captured.hpp"
#include "cuda/counted_memory.hpp"
#include "device/reference.hpp"
#include "layer/layers.hpp"
#include "moxie/dispatch/padded.hpp"
#include "support/skip.hpp"

namespace moxie::test {
namespace {

using B = CudaBackend<float>;
constexpr Index tokens = 512, width = 64;

auto make_padded(B& b) {
  return MoeLayer{b, MoeShape{.width = width, .experts = 4, .seed = 2},
                  WithDispatcher{PaddedDispatcher{}, TopKRouter{.k = 2}},
                  CapacityFactor{.factor = 1.25}, FeedForward<Gelu>{.hidden = 128}};
}
/// Whether cuBLASLt has such a product, of factors of type F. Without it, nothing is fused.
template <class F>
bool offered() {
  constexpr Index experts = 4, rows = 320, hidden = 128;
  B b(CudaLeaf{CudaOptions{.fused_epilogues = true}});
  const Buffer<F, B> w(b, experts * width * hidden, F(0.0F));
  const Buffer<F, B> x(b, experts * rows * width, F(0.0F));
  const Buffer<float, B> bias(b, experts * hidden, 0.0F);
  const Buffer<float, B> y(b, experts * rows * hidden, 0.0F);
  return b.leaf().fused_gemm_strided(
      Op::none, Op::none, hidden, rows, width, w.data(), hidden, width * hidden, x.data(), width,
      rows * width, y.data(), hidden, rows * hidden, experts,
      StridedEnd<float>{.bias = bias.data(), .bias_stride = hidden, .gelu = true});
}
/// Result and gradient of the input.
std::vector<float> pass(const CudaOptions& options, Gradients gradients) {
  B b(CudaLeaf{options});
  const auto layer = make_padded(b);
  for (const ParameterEntry& e : layer.parameters().entries())  // else hardly more than 0
    if (e.name.ends_with("bias"))
      set_parameter(layer.parameters(), e.name, in_double(numbers<float>(e.size(), 3)));
  auto tape = layer.make_tape(tokens, gradients);
  const Buffer<float, B> x(b, numbers<float>(tokens * width, 1));
  const Buffer<float, B> dy(b, numbers<float>(tokens * width, 2));
  const Buffer<float, B> y(b, tokens * width, 0.0F);
  const Buffer<float, B> dx(b, tokens * width, 0.0F);
  layer.forward(ConstMatrix<B>(x.view(tokens, width)), y.view(tokens, width), tape, Pass<B>{});
  if (gradients != Gradients::none)
    layer.backward(ConstMatrix<B>(dy.view(tokens, width)), dx.view(tokens, width), tape);
  std::vector<float> all = y.to_vector();
  const std::vector<float> more = dx.to_vector();
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

TEST_CASE("cuBLASLt's bias and GELU are ours, with and without gradients, in fp32, tf32 and bf16") {
  if (!offered<float>() && !offered<bf16>()) MOXIE_SKIP("cuBLASLt offers no such product");
  for (const bool tf32 : {false, true})
    for (const Bf16Experts bf16 : {Bf16Experts::never, Bf16Experts::always})
      for (const Gradients gradients : {Gradients::none, Gradients::input}) {
        CAPTURE(tf32);
        CAPTURE(static_cast<int>(bf16));
        CAPTURE(static_cast<int>(gradients));
        const CudaOptions apart{.tf32 = tf32, .bf16_experts = bf16};
        CudaOptions fused = apart;
        fused.fused_epilogues = true;
        // its tanh is the instruction of the GPU
        CHECK(largest_error(pass(fused, gradients), in_double(pass(apart, gradients))) <= 1e-2);
      }
}

TEST_CASE("A pass with cuBLASLt takes no memory, and can be captured") {
  CountedMemory memory;
  CudaStream stream;
  B b(CudaLeaf(stream.get(), {.memory = &memory, .fused_epilogues = true}));
  const auto layer = make_padded(b);
  auto tape = layer.make_tape(tokens, Gradients::none);
  const Buffer<float, B> x(b, numbers<float>(tokens * width, 1));
  const Buffer<float, B> y(b, tokens * width, 0.0F);
  const auto forward = [&] {
    layer.forward(ConstMatrix<B>(x.view(tokens, width)), y.view(tokens, width), tape, Pass<B>{});
  };
  const int before = memory.allocations;
  forward();
  CHECK(memory.allocations == before);
  const std::vector<float> wanted = y.to_vector();
  b.fill(y.view(), 99.0F);
  run_captured(stream.get(), 2, forward);
  CHECK(y.to_vector() == wanted);
}

}  // namespace
}  // namespace moxie::test
