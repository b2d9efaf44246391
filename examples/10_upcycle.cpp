// Upcycling: a dense vision transformer's checkpoint becomes the start of one with experts.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <moxie/io/upcycle.hpp>
#include <moxie/moxie.hpp>
#include <moxie/nn/vit.hpp>
#include <vector>

using B = moxie::CpuBackend<float>;

/// Scores of some images.
std::vector<float> scores(const moxie::Vit<B>& model) {
  constexpr moxie::Index images = 8;
  const moxie::Index pixels = model.input_width(), classes = model.output_width();
  std::vector<float> x(static_cast<std::size_t>(images * pixels));
  std::vector<float> y(static_cast<std::size_t>(images * classes));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(0.7F * static_cast<float>(i));
  auto tape = moxie::make_tape(model, images, moxie::Gradients::none);
  model.forward({x.data(), images, pixels}, {y.data(), images, classes}, tape,
                {.mode = moxie::Mode::eval, .gradients = moxie::Gradients::none});
  return y;
}
float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  float d = 0;
  for (std::size_t i = 0; i < a.size(); ++i) d = std::max(d, std::abs(a[i] - b[i]));
  return d;
}

int main() {
  B cpu;
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() / "moxie_10_upcycle.safetensors";

  // A dense model stands for one that was trained; its head starts at 0, so it gets some values here.
  moxie::VitConfig config{.image_height = 16, .image_width = 16, .width = 32, .hidden = 64};
  const moxie::Vit<B> dense(cpu, config);
  const moxie::Vector<B> values = dense.parameters().edit();
  for (moxie::Index i = 0; i < values.size; ++i)
    values[i] += 0.1F * std::sin(1.3F * static_cast<float>(i));
  moxie::save_checkpoint(file, dense.parameters(), {});

  // The last two blocks get experts. Weights that sum to 1 and no drops: then a token gets the
  // average of experts that are all the dense model's perceptron.
  config.moe_blocks = {2, 3};
  config.seed = 1;
  const moxie::Vit<B> sparse(cpu, config, [&](const moxie::Scope<B>& scope, moxie::Index) {
    return moxie::MoeLayer{scope,
                           {.width = config.width, .experts = 8},
                           moxie::TopKRouter{.k = 2, .renormalize = true},
                           moxie::Dropless{},
                           moxie::FeedForward<moxie::Gelu>{.hidden = config.hidden}};
  });
  const std::vector<float> wanted = scores(dense);
  std::printf("before: equal: %s\n",
              largest_difference(scores(sparse), wanted) < 1e-4F ? "yes" : "no");

  const moxie::UpcycleReport report = moxie::upcycle(file, sparse.parameters());
  std::printf("upcycled: %td entries copied, %td repeated for each expert\n", report.copied,
              report.repeated);
  for (const std::string& name : report.kept) std::printf("  as initialized: %s\n", name.c_str());
  std::printf("at step 0: equal: %s\n",
              largest_difference(scores(sparse), wanted) < 1e-4F ? "yes" : "no");

  // Noise makes experts differ before training does.
  moxie::upcycle(file, sparse.parameters(), {.noise = 0.1, .seed = 7});
  std::printf("with noise: equal: %s\n",
              largest_difference(scores(sparse), wanted) < 1e-4F ? "yes" : "no");
  std::filesystem::remove(file);
}
