#include "moxie/io/upcycle.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "io/folder.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/nn/vit.hpp"
#include "moxie/router/top_k.hpp"
#include "support/errors.hpp"
#include "support/kernels.hpp"

namespace upcycle_test {

namespace {

using namespace moxie;
using B = CpuBackend<double>;
using moxie::test::Folder;
using moxie::test::message_of;

VitConfig dense_config() {
  return {.image_height = 8,
          .image_width = 8,
          .channels = 1,
          .patch = 4,
          .width = 8,
          .blocks = 3,
          .heads = 2,
          .hidden = 12,
          .classes = 3,
          .seed = 5};
}
struct MakeFeed {
  Index hidden = 12;
  AnyLayer<B> operator()(const Scope<B>& scope, Index) const {
    return MoeLayer{scope,
                    {.width = 8, .experts = 4},
                    TopKRouter{.k = 2, .renormalize = true},
                    Dropless{},
                    FeedForward<Gelu>{.hidden = hidden}};
  }
};
Vit<B> moe_vit(B& cpu, std::vector<Index> blocks, Index hidden = 12) {
  VitConfig config = dense_config();
  config.moe_blocks = std::move(blocks);
  config.seed = 77;
  return Vit<B>(cpu, config, MakeFeed{hidden});
}
/// A dense model with no zero among its values, or a head of zeros would hide all differences.
Vit<B> dense_vit(B& cpu) {
  Vit<B> model(cpu, dense_config());
  const Vector<B> values = model.parameters().edit();
  for (Index i = 0; i < values.size; ++i) values[i] += 0.1 * std::sin(1.3 * static_cast<double>(i));
  return model;
}
std::vector<double> scores(const Vit<B>& model) {
  constexpr Index images = 5;
  std::vector<double> x(images * 64), y(images * 3);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::cos(0.9 * static_cast<double>(i));
  auto tape = make_tape(model, images, Gradients::none);
  model.forward({x.data(), images, 64}, {y.data(), images, 3}, tape,
                {.mode = Mode::eval, .gradients = Gradients::none});
  return y;
}
double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double d = 0;
  for (std::size_t i = 0; i < a.size(); ++i) d = std::max(d, std::abs(a[i] - b[i]));
  return d;
}
const ParameterEntry& entry(const Parameters<B>& p, std::string_view name) {
  for (const ParameterEntry& e : p.entries())
    if (e.name == name) return e;
  FAIL("there is no entry ", std::string(name));
  return p.entries().front();
}

}  // namespace

TEST_CASE("an upcycled ViT gives at step 0 what the dense one gives") {
  B cpu;
  const Folder folder;
  const Vit<B> dense = dense_vit(cpu);
  save_checkpoint(folder / "dense", dense.parameters(), {});
  const Vit<B> moe = moe_vit(cpu, {0, 2});
  CHECK(largest_difference(scores(moe), scores(dense)) > 1e-2);

  const UpcycleReport report = upcycle(folder / "dense", moe.parameters());
  CHECK(largest_difference(scores(moe), scores(dense)) < 1e-13);
  CHECK(report.repeated == 8);  // two kernels and two biases in each of two blocks
  CHECK(report.copied == static_cast<Index>(dense.parameters().entries().size()) - report.repeated);
  CHECK(report.kept == std::vector<std::string>{"Encoder/encoderblock_0/Moe/Router/kernel",
                                                "Encoder/encoderblock_2/Moe/Router/kernel"});
}

TEST_CASE("noise moves each expert's kernels by its own draw of the size that was asked for") {
  B cpu;
  const Folder folder;
  const Vit<B> dense = dense_vit(cpu);
  save_checkpoint(folder / "dense", dense.parameters(), {});
  const Vit<B> moe = moe_vit(cpu, {1});
  upcycle(folder / "dense", moe.parameters(), {.noise = 0.1, .seed = 3});
  const double first = largest_difference(scores(moe), scores(dense));
  CHECK(first > 1e-6);

  const auto& from = entry(dense.parameters(), "Encoder/encoderblock_1/Mlp/Dense_0/kernel");
  const auto& to = entry(moe.parameters(), "Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel");
  const double* const one = dense.parameters().values().data + from.offset;
  const double* const all = moe.parameters().values().data + to.offset;
  double size = 0;
  double moved = 0;
  for (Index i = 0; i < 96; ++i) size += one[i] * one[i];
  for (Index i = 0; i < 4 * 96; ++i) {
    const double d = all[i] - one[i % 96];
    moved += d * d;
    if (i >= 96) CHECK(all[i] != all[i - 96]);
  }
  // 384 draws: their root mean square is within a fifth of the deviation
  CHECK(std::sqrt(moved / 4 / size) == doctest::Approx(0.1).epsilon(0.2));
  const auto& bias = entry(moe.parameters(), "Encoder/encoderblock_1/Moe/Mlp/Dense_0/bias");
  const auto& dense_bias = entry(dense.parameters(), "Encoder/encoderblock_1/Mlp/Dense_0/bias");
  for (Index i = 0; i < 4 * 12; ++i)
    CHECK(moe.parameters().values()[bias.offset + i] ==
          dense.parameters().values()[dense_bias.offset + i % 12]);

  const std::vector<double> before = scores(moe);
  upcycle(folder / "dense", moe.parameters(), {.noise = 0.1, .seed = 3});
  CHECK(scores(moe) == before);  // the same seed, the same model
}

TEST_CASE("a dense file that does not fit is refused by name, and nothing is changed") {
  B cpu;
  const Folder folder;
  const Vit<B> dense = dense_vit(cpu);
  const std::filesystem::path file = folder / "dense";
  save_checkpoint(file, dense.parameters(), {});
  const Vit<B> wide = moe_vit(cpu, {1}, 16);
  const std::vector<double> before = scores(wide);
  const std::string message = message_of<io_error>([&] { upcycle(file, wide.parameters()); });
  CHECK(message.starts_with(
      "moxie::upcycle: '" + file.string() +
      "' does not fit the model: 'Encoder/encoderblock_1/Mlp/Dense_0/kernel' is [8 x 12] of F64 in "
      "the file, expected [8 x 16] of F64 for 'Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel'"));
  CHECK(scores(wide) == before);

  // experts of which the file has none, and a perceptron that is nobody's
  Parameters<B> other(cpu);
  other.add({.name = "Moe/Mlp/gate/kernel", .shape = {4, 8, 12}, .expert_axis = true});
  other.initialize(0);
  const std::string names = message_of<io_error>([&] { upcycle(file, other); });
  CHECK(names.find("'Moe/Mlp/gate/kernel' [4 x 8 x 12] has nothing to start from: there is no "
                   "'Mlp/gate/kernel' [8 x 12]") != std::string::npos);
  CHECK(names.find("finds no place") != std::string::npos);
  CHECK(message_of<config_error>([&] { upcycle(file, other, {.noise = -1}); }) ==
        "moxie::upcycle: noise is -1, expected 0 to 1e30");

  // of another version, and with a checkpoint's mark but nothing to check it by
  write_safetensors(folder / "future", {}, {{"moxie.checkpoint", "2"}});
  CHECK(message_of<io_error>([&] { upcycle(folder / "future", other); }) ==
        "moxie::upcycle: '" + (folder / "future").string() + "' has version '2', expected '1'");
  write_safetensors(folder / "cut", {}, {{"moxie.checkpoint", "1"}});
  CHECK(message_of<io_error>([&] { upcycle(folder / "cut", other); }) ==
        "moxie::upcycle: '" + (folder / "cut").string() + "' is damaged: it has no checksum");
}

}  // namespace upcycle_test
