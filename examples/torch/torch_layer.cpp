// A torch model with a mixture inside: its gradients against central differences, then training by torch's Adam.
#include <cmath>
#include <cstdio>
#include <moxie/moxie.hpp>

#include "moe_module.hpp"

using B = moxie::CpuBackend<double>;
constexpr moxie::Index features = 12, samples = 64;

auto make_layer(B& cpu) {
  return moxie::MoeLayer{cpu,
                         {.width = features, .experts = 4, .seed = 1},
                         moxie::TopKRouter{.k = 2},
                         moxie::Dropless{},
                         moxie::FeedForward<moxie::Gelu>{.hidden = 24}};
}

struct Model : torch::nn::Module {
  using Moe = moxie_torch::MoeModule<decltype(make_layer(std::declval<B&>()))>;
  explicit Model(B& cpu)
      : into(register_module("into", torch::nn::Linear(8, features))),
        moe(register_module("moe", std::make_shared<Moe>(make_layer(cpu)))),
        out(register_module("out", torch::nn::Linear(features, 3))) {
    to(torch::kDouble);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor h = into(x);
    return out(h + moe->forward(h));
  }
  torch::nn::Linear into;
  std::shared_ptr<Moe> moe;
  torch::nn::Linear out;
};

/// Results in training of layers with the same weights and noise in their routers.
torch::Tensor noisy(B& cpu, const torch::Tensor& x, const moxie_torch::MoeModuleOptions& options) {
  moxie::MoeLayer layer{cpu,
                        {.width = features, .experts = 4, .seed = 1},
                        moxie::WithNoise{moxie::GaussianNoise{}, moxie::TopKRouter{.k = 2}},
                        moxie::Dropless{},
                        moxie::FeedForward<moxie::Gelu>{.hidden = 24}};
  moxie_torch::MoeModule module(std::move(layer), options);
  return module.forward(x).detach();
}

int main() {
  torch::manual_seed(1);
  B cpu;
  Model model(cpu);
  const torch::Tensor x = torch::randn({samples, 8}, torch::kDouble);
  const torch::Tensor wanted = torch::tanh(x.slice(1, 0, 3)) * x.slice(1, 3, 6).sign();
  const auto loss_of = [&] { return torch::mse_loss(model.forward(x), wanted); };

  loss_of().backward();
  double worst = 0;
  for (const auto& named : model.named_parameters()) {
    torch::Tensor values = named.value().detach().flatten();  // the same memory
    const torch::Tensor gradient = named.value().grad().flatten();
    for (std::int64_t i = 0; i < values.size(0); i += 1 + values.size(0) / 20) {
      const double old = values[i].item<double>();
      const auto at = [&](double v) {
        values[i] = v;
        return loss_of().item<double>();
      };
      const double step = 1e-6, difference = (at(old + step) - at(old - step)) / (2 * step);
      values[i] = old;
      worst = std::max(worst, std::abs(difference - gradient[i].item<double>()));
    }
  }
  std::printf("gradients agree with central differences: %s\n", worst < 1e-7 ? "yes" : "no");

  torch::optim::Adam adam(model.parameters(), torch::optim::AdamOptions(1e-2));
  const double first = loss_of().item<double>();
  double last = first;
  for (int step = 0; step < 200; ++step) {
    adam.zero_grad();
    const torch::Tensor loss = loss_of();
    loss.backward();
    adam.step();
    last = loss.item<double>();
  }
  std::printf("the error fell to less than a tenth: %s\n", last < first / 10 ? "yes" : "no");

  const torch::Tensor rows = torch::randn({samples, features}, torch::kDouble);
  const torch::Tensor base = noisy(cpu, rows, {.seed = 5, .moe_layer = 1});
  const auto same = [&](const moxie_torch::MoeModuleOptions& options) {
    return torch::equal(base, noisy(cpu, rows, options)) ? "the same" : "its own";
  };
  std::printf("noise of the same seed and layer number: %s\n", same({.seed = 5, .moe_layer = 1}));
  std::printf("noise of another layer number: %s\n", same({.seed = 5, .moe_layer = 2}));
  std::printf("noise of another seed: %s\n", same({.seed = 6, .moe_layer = 1}));

  const auto refused = [](const auto& action) {
    try {
      action();
    } catch (const c10::Error& e) {
      std::printf("%s\n", e.what_without_backtrace());
    }
  };
  refused([&] { noisy(cpu, rows, {.moe_layer = -1}); });
  // [batch, tokens, D] is not taken for [batch, tokens]
  refused([&] { model.moe->forward(torch::zeros({2, features, features}, torch::kDouble)); });
}
