#include "moxie/nn/vit.hpp"

#include <cstring>
#include <memory>
#include <string>

#include "moxie/backend/thread_pool.hpp"
#include "moxie/nn/presets.hpp"
#include "nn/layers.hpp"

using namespace moxie;
using namespace moxie::test;

namespace {

constexpr Index probe_width = 8;

VitConfig tiny() {
  return {.image_height = 4,
          .image_width = 4,
          .channels = 1,
          .patch = 2,
          .width = probe_width,
          .blocks = 3,
          .heads = 2,
          .hidden = 6,
          .classes = 3};
}

/// A feed that adds nothing and notes what it was told.
template <Backend B>
class Probe {
 public:
  using BackendType = B;
  struct Told {
    std::vector<Index> layer, rows, first_token;
    const void* mask = nullptr;
  };
  struct Tape {
    Index layer = -1;
  };
  Probe(const Scope<B>& scope, Told& told) : parameters_(scope.parameters), told_(&told) {}

  Index input_width() const { return probe_width; }
  Index output_width() const { return probe_width; }
  Index moe_layers() const { return 1; }
  Parameters<B>& parameters() const { return *parameters_; }
  void bind(Arena<B>&, Index, Tape&) const {}
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& tape, const Pass<B>& pass) const {
    fill_rows(parameters_->backend(), 0, y);
    tape.layer = pass.moe_layer;
    told_->layer.push_back(pass.moe_layer);
    told_->rows.push_back(x.rows);
    told_->first_token.push_back(pass.first_token);
    told_->mask = pass.mask.data;
  }
  void backward(ConstMatrix<B>, Matrix<B> dx, Tape&) const {
    fill_rows(parameters_->backend(), 0, dx);
  }
  void visit_routing(Tape& tape, RoutingVisitor<B>& visitor) const {
    const typename B::Scalar value = static_cast<typename B::Scalar>(tape.layer);
    visitor.losses({}, {&value, 1});
  }

 private:
  std::shared_ptr<Parameters<B>> parameters_;
  Told* told_;
};

template <Backend B>
struct Collect final : RoutingVisitor<B> {
  void losses(std::span<const std::string_view>, ConstVector<B> values) override {
    seen.push_back(static_cast<Index>(values[0]));
  }
  std::vector<Index> seen;
};

}  // namespace

TEST_CASE("Vit names its parameters as V-MoE does") {
  using B = CpuBackend<double>;
  B backend;
  VitConfig config = tiny();
  config.blocks = 2;
  config.pooling = Pooling::token;
  config.moe_blocks = {1};
  const Vit<B> vit(backend, config, [](const Scope<B>& scope, Index block) {
    CHECK(block == 1);
    return AnyLayer<B>(Mlp<B>(scope / "Mlp", probe_width, 5, probe_width));
  });
  std::vector<std::string> names;
  for (const ParameterEntry& e : vit.parameters().entries()) names.push_back(e.name);
  std::vector<std::string> expected{"embedding/kernel", "embedding/bias", "cls",
                                    "Encoder/posembed_input/pos_embedding"};
  for (const std::string block : {"Encoder/encoderblock_0/", "Encoder/encoderblock_1/"}) {
    const std::string feed = block + (block.ends_with("0/") ? "Mlp/" : "Moe/Mlp/");
    for (const char* name : {"Dense_0/kernel", "Dense_0/bias", "Dense_1/kernel", "Dense_1/bias"})
      expected.push_back(feed + name);
    for (const char* name : {"LayerNorm_0/scale", "LayerNorm_0/bias", "SelfAttention/qkv/kernel",
                             "SelfAttention/qkv/bias", "SelfAttention/out/kernel",
                             "SelfAttention/out/bias", "LayerNorm_1/scale", "LayerNorm_1/bias"})
      expected.push_back(block + name);
  }
  for (const char* name :
       {"Encoder/encoder_norm/scale", "Encoder/encoder_norm/bias", "head/kernel", "head/bias"})
    expected.push_back(name);
  CHECK(names == expected);
  CHECK(vit.parameters().range("Encoder/encoderblock_0/").shared.size > 0);
}

TEST_CASE_TEMPLATE("Vit starts with the head's bias as scores", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  VitConfig config = tiny();
  config.head_bias = -std::log(3.0);
  const Vit<B> vit(backend, config);
  CHECK(vit.input_width() == 16);
  CHECK(vit.output_width() == 3);
  CHECK(vit.tokens_per_image() == 4);
  check_near(outputs(vit, std::vector<double>(32, 0.7), 2), std::vector<double>(6, -std::log(3.0)),
             tolerance<typename B::Scalar>);
}

TEST_CASE("Vit counts MoE layers, tells them the pass, and visits them in order") {
  using B = CpuBackend<float>;
  B backend;
  VitConfig config = tiny();
  config.moe_blocks = {0, 2};
  Probe<B>::Told told;
  const Vit<B> vit(backend, config, [&](const Scope<B>& scope, Index) {
    return AnyLayer<B>(Probe<B>(scope, told));
  });
  CHECK(vit.moe_layers() == 2);

  auto tape = make_tape(vit, 2);
  const std::vector<float> x(32, 0.5F);
  std::vector<float> y(6);
  const std::vector<std::int32_t> mask(8, 1);
  Pass<B> pass{.first_token = 40, .mask = {mask.data(), 8}, .moe_layer = 5};
  vit.forward({x.data(), 2, 16}, {y.data(), 2, 3}, tape, pass);
  CHECK(told.layer == std::vector<Index>{5, 6});
  CHECK(told.rows == std::vector<Index>{8, 8});
  CHECK(told.first_token == std::vector<Index>{40, 40});
  CHECK(told.mask == mask.data());

  Collect<B> visitor;
  vit.visit_routing(tape, visitor);
  CHECK(visitor.seen == std::vector<Index>{5, 6});
}

TEST_CASE("Vit gives the same bits on any number of threads") {
  VitConfig config = tiny();
  config.image_height = config.image_width = 16;
  config.width = 32;
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    CpuBackend<float> backend(pool);
    const Vit<CpuBackend<float>> vit(backend, config);
    const auto values = vit.parameters().edit();
    for (Index i = 0; i < values.size; ++i) values[i] = 0.2F * std::sin(static_cast<float>(i));
    std::vector<float> x(16 * 256), y(16 * 3), dx(x.size());
    for (std::size_t j = 0; j < x.size(); ++j) x[j] = std::cos(static_cast<float>(j));
    auto tape = make_tape(vit, 16);
    vit.forward({x.data(), 16, 256}, {y.data(), 16, 3}, tape, {});
    vit.backward({y.data(), 16, 3}, {dx.data(), 16, 256}, tape);
    const auto gradients = vit.parameters().gradients();
    std::vector<float> all(gradients.data, gradients.data + gradients.size);
    all.insert(all.end(), y.begin(), y.end());
    all.insert(all.end(), dx.begin(), dx.end());
    results.push_back(all);
  }
  for (const std::vector<float>& r : results)
    CHECK(std::memcmp(r.data(), results[0].data(), r.size() * sizeof(float)) == 0);
}

TEST_CASE("Vit: tapes for fewer gradients are smaller") {
  using B = CpuBackend<float>;
  B backend;
  VitConfig config = vit_preset("nano");
  config.moe_blocks.clear();
  const Vit<B> vit(backend, config);
  const std::size_t all = tape_bytes(vit, 8, Gradients::all);
  const std::size_t input = tape_bytes(vit, 8, Gradients::input);
  const std::size_t none = tape_bytes(vit, 8, Gradients::none);
  CHECK(input < all);
  CHECK(4 * none < input);
}

TEST_CASE("Vit says what is wrong with its config") {
  using B = CpuBackend<float>;
  B backend;
  const auto refused = [&](auto change, const char* text) {
    VitConfig config = tiny();
    change(config);
    CHECK_THROWS_WITH_AS(Vit<B>(backend, config), text, config_error);
  };
  refused([](VitConfig& c) { c.image_width = 0; },
          "moxie::VitConfig: image_width is 0, expected >= 1");
  refused([](VitConfig& c) { c.classes = -2; }, "moxie::VitConfig: classes is -2, expected >= 1");
  refused([](VitConfig& c) { c.patch = 3; },
          "moxie::VitConfig: patch is 3, expected a divisor of image_height 4 and image_width 4");
  refused([](VitConfig& c) { c.heads = 3; },
          "moxie::VitConfig: heads is 3, expected a divisor of width, which is 8");
  refused(
      [](VitConfig& c) {
        c.width = 6;
        c.positions = Positions::sincos2d;
      },
      "moxie::VitConfig: width is 6, expected a multiple of 4, at least 8 (positions is sincos2d)");
  refused([](VitConfig& c) { c.moe_blocks = {3}; },
          "moxie::VitConfig: moe_blocks holds 3, expected 0 to 2 (blocks is 3)");
  refused(
      [](VitConfig& c) {
        c.moe_blocks = {1, 1};
      },
      "moxie::VitConfig: moe_blocks holds 1 twice, expected each block once");
  refused([](VitConfig& c) { c.moe_blocks = {1}; },
          "moxie::Vit: moe_blocks holds 1, expected a third argument make_feed(scope, block) that "
          "makes its layer");

  VitConfig config = tiny();
  config.moe_blocks = {1};
  const auto narrow = [](const Scope<B>& scope, Index) {
    return AnyLayer<B>(Mlp<B>(scope, probe_width, 4, 5));
  };
  CHECK_THROWS_WITH_AS(Vit<B>(backend, config, narrow),
                       "moxie::EncoderBlock: the feed maps rows of 8 to rows of 5, expected 8 both "
                       "times: it stands in a residual block",
                       config_error);
}
