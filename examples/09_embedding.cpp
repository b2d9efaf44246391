// A layer inside a training loop that was there before: the loop keeps its buffers, its loss and its optimizer.
#include <cmath>
#include <cstdio>
#include <moxie/core/span.hpp>
#include <moxie/moxie.hpp>
#include <vector>

// ---- what was there: samples in padded rows, a linear read-out, plain gradient descent ----
constexpr std::size_t samples = 128, width = 16,
                      pitch = 20;  // each row has four numbers of another's

void descend(float* values, const float* gradients, std::size_t count, float rate) {
  for (std::size_t i = 0; i < count; ++i) values[i] -= rate * gradients[i];
}

int main() {
  std::vector<float> data(samples * pitch), wanted(samples);
  for (std::size_t i = 0; i < data.size(); ++i)
    data[i] = std::sin(0.37F * static_cast<float>(i * (i % 7 + 1)));
  for (std::size_t s = 0; s < samples;
       ++s)  // what is wanted depends on which of two kinds a sample is
    wanted[s] = data[s * pitch] > 0 ? data[s * pitch + 1] : -data[s * pitch + 2];
  std::vector<float> weights(width, 0.1F), d_weights(width);

  // [embed] ---- what is new: the layer, its tape, and memory for what goes in and out of it ----
  using B = moxie::CpuBackend<float>;
  B cpu;
  const moxie::MoeLayer layer{cpu,
                              {.width = width, .experts = 4, .seed = 1},
                              moxie::TopKRouter{.k = 2},
                              moxie::Dropless{},
                              moxie::FeedForward<moxie::Gelu>{.hidden = 32}};
  auto tape = layer.make_tape(samples);
  std::vector<float> hidden(samples * width), d_hidden(samples * width);
  // the loop's own memory, as it lies: no copy, and the padding stays out
  const auto x = moxie::as_matrix(std::span<const float>(data), samples, width, pitch);
  const auto h = moxie::as_matrix(std::span(hidden), width);
  const auto dh = moxie::as_matrix(std::span(d_hidden), width);
  // [embed]

  float first = 0;
  float loss = 0;
  for (std::uint64_t step = 0; step < 300; ++step) {
    // [forward]
    layer.parameters().zero_gradients();
    layer.forward(x, h, tape, {.mode = moxie::Mode::train, .seed = 1, .step = step});
    // [forward]
    loss = 0;
    d_weights.assign(width, 0);
    for (std::size_t s = 0; s < samples; ++s) {  // score = (x + h) w, the residual is the loop's
      float score = 0;
      for (std::size_t j = 0; j < width; ++j)
        score += (data[s * pitch + j] + hidden[s * width + j]) * weights[j];
      const float error = score - wanted[s];
      loss += error * error / samples;
      for (std::size_t j = 0; j < width; ++j) {
        const float d = 2 * error / samples;
        d_weights[j] += d * (data[s * pitch + j] + hidden[s * width + j]);
        d_hidden[s * width + j] = d * weights[j];
      }
    }
    if (step == 0) first = loss;
    // [backward]
    layer.backward(dh, {}, tape);  // a view in place of {} would get the gradient of x
    moxie::Parameters<B>& p = layer.parameters();
    descend(p.edit().data, p.gradients().data, static_cast<std::size_t>(p.size()), 0.1F);
    p.after_step();  // nothing here; counts for routers that keep state between steps
    // [backward]
    descend(weights.data(), d_weights.data(), width, 0.1F);
  }
  std::printf("parameters of the layer: %td\n", layer.parameters().size());
  std::printf("the error fell to less than a tenth: %s\n", loss < first / 10 ? "yes" : "no");
  std::printf(
      "the padding is untouched: %s\n",
      data[width] == std::sin(0.37F * static_cast<float>(width * (width % 7 + 1))) ? "yes" : "no");
}
