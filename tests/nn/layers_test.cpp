// Numbers made by hand, and what layers say when they are used wrongly.
#include "nn/layers.hpp"

#include "moxie/nn/attention.hpp"
#include "moxie/nn/attention_pooling.hpp"
#include "moxie/nn/class_token.hpp"
#include "moxie/nn/layer_norm.hpp"
#include "moxie/nn/mlp.hpp"
#include "moxie/nn/patch_embedding.hpp"
#include "moxie/nn/pooling.hpp"

using namespace moxie;
using namespace moxie::test;

TEST_CASE_TEMPLATE("Linear multiplies by its kernel and adds its bias", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const Scope<B> scope = root(backend);
  const Linear<B> layer(scope / "head", 2, 3);
  scope.parameters->initialize(1);
  set_parameter(*scope.parameters, "head/kernel", {1, 2, 3, 4, 5, 6});
  set_parameter(*scope.parameters, "head/bias", {0.5, 0, -1});
  check_near(outputs(layer, {1, 0, -1, 2}, 2), {1.5, 2, 2, 7.5, 8, 8},
             tolerance<typename B::Scalar>);
}

TEST_CASE_TEMPLATE("LayerNorm centres and scales a row", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const Scope<B> scope = root(backend);
  const LayerNorm<B> layer(scope, 4, 0.0);
  scope.parameters->initialize(1);
  set_parameter(*scope.parameters, "scale", {1, 1, 2, 1});
  set_parameter(*scope.parameters, "bias", {0, 0, 0, 10});
  // mean 5, deviations -3 -1 1 3, variance 5; far from zero as well
  const double r = 1 / std::sqrt(5.0);
  check_near(outputs(layer, {2, 4, 6, 8}, 1), {-3 * r, -r, 2 * r, 10 + 3 * r},
             tolerance<typename B::Scalar>);
  check_near(outputs(layer, {4098, 4100, 4102, 4104}, 1), {-3 * r, -r, 2 * r, 10 + 3 * r},
             tolerance<typename B::Scalar>);
}

TEST_CASE_TEMPLATE("Mlp uses the tanh form of GELU", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const Scope<B> scope = root(backend);
  const Mlp<B> layer(scope, 1, 1, 1);
  scope.parameters->initialize(1);
  set_parameter(*scope.parameters, "Dense_0/kernel", {1});
  set_parameter(*scope.parameters, "Dense_0/bias", {0});
  set_parameter(*scope.parameters, "Dense_1/kernel", {1});
  set_parameter(*scope.parameters, "Dense_1/bias", {0});
  // 0.5 x (1 + tanh(0.7978845608 (x + 0.044715 x^3)))
  check_near(outputs(layer, {0, 1, -1, 2}, 4),
             {0, 0.841191990608276, -0.158808009391724, 1.954597694087775}, 1e-6);
}

TEST_CASE_TEMPLATE("SelfAttention averages the values of equal keys, inside an image and a head", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const Scope<B> scope = root(backend);
  const SelfAttention<B> layer(scope, {.tokens = 2, .width = 2, .heads = 2});
  scope.parameters->initialize(1);
  // Query and key are 0, so that all weights are 1/2; value = x; out = identity, plus (0, 1).
  set_parameter(*scope.parameters, "qkv/kernel",
                {0, 0, 0, 0, 1, 0,  //
                 0, 0, 0, 0, 0, 1});
  set_parameter(*scope.parameters, "qkv/bias", {0, 0, 0, 0, 0, 0});
  set_parameter(*scope.parameters, "out/kernel", {1, 0, 0, 1});
  set_parameter(*scope.parameters, "out/bias", {0, 1});
  check_near(outputs(layer, {1, 2, 3, 4, 10, 20, 30, 40}, 4), {2, 4, 2, 4, 20, 31, 20, 31},
             tolerance<typename B::Scalar>);

  // Now head 0 asks: q = x0, k = x0, one column wide, scale 1. Scores of token 0 (x0 = 0): 0, 0; of
  // token 1 (x0 = 1): 0, 1. Head 1 still averages.
  set_parameter(*scope.parameters, "qkv/kernel",
                {1, 0, 1, 0, 1, 0,  //
                 0, 0, 0, 0, 0, 1});
  const double e = std::exp(1.0);
  check_near(outputs(layer, {0, 2, 1, 4}, 2), {0.5, 4, e / (1 + e), 4},
             tolerance<typename B::Scalar>);
}

TEST_CASE_TEMPLATE("SelfAttention: the images of a batch do not see one another", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const Scope<B> scope = root(backend);
  const SelfAttention<B> layer(scope, {.tokens = 3, .width = 8, .heads = 2});
  scope.parameters->initialize(1);
  std::vector<double> one, two;
  for (int i = 0; i < 24; ++i) one.push_back(std::sin(i));
  for (int i = 0; i < 24; ++i) two.push_back(std::cos(3 * i));
  std::vector<double> both = one;
  both.insert(both.end(), two.begin(), two.end());
  std::vector<double> y = outputs(layer, one, 3);
  const std::vector<double> y_two = outputs(layer, two, 3);
  y.insert(y.end(), y_two.begin(), y_two.end());
  check_near(outputs(layer, both, 6), y, tolerance<typename B::Scalar>);
}

TEST_CASE_TEMPLATE("PatchEmbedding is a convolution: patches row by row, kernel as flax lays it", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const Scope<B> scope = root(backend);
  const PatchEmbedding<B> layer(scope, {.height = 2, .width = 4, .channels = 2, .patch = 2}, 1);
  scope.parameters->initialize(1);
  CHECK(scope.parameters->entry(0).shape == std::vector<Index>{2, 2, 2, 1});
  // kernel[line, column, channel] = 100 line + 10 column + channel
  set_parameter(*scope.parameters, "kernel", {0, 1, 10, 11, 100, 101, 110, 111});
  set_parameter(*scope.parameters, "bias", {1000});
  std::vector<double> x(16, 0.0);
  x[2 * 1 + 1] = 1;      // line 0, column 1, channel 1: patch 0, kernel 11
  x[8 + 2 * 2 + 0] = 1;  // line 1, column 2, channel 0: patch 1, kernel 100
  check_near(outputs(layer, x, 1), {1011, 1100}, tolerance<typename B::Scalar>);
}

TEST_CASE_TEMPLATE("ClassToken puts its row first, poolings take it or the mean", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const Scope<B> scope = root(backend);
  const ClassToken<B> layer(scope, 2, 2);
  const SimplePooling<B> mean(scope, 3, 2, Pooling::mean);
  const SimplePooling<B> token(scope, 3, 2, Pooling::token);
  scope.parameters->initialize(1);
  set_parameter(*scope.parameters, "cls", {7, 8});
  const std::vector<double> y = outputs(layer, {1, 2, 3, 4, 5, 6, 7, 8}, 2);
  CHECK(y == std::vector<double>{7, 8, 1, 2, 3, 4, 7, 8, 5, 6, 7, 8});
  CHECK(outputs(token, y, 2) == std::vector<double>{7, 8, 7, 8});
  check_near(outputs(mean, y, 2), {11 / 3.0, 14 / 3.0, 19 / 3.0, 22 / 3.0},
             tolerance<typename B::Scalar>);
}

TEST_CASE_TEMPLATE("AttentionPooling of equal tokens does not depend on how many there are", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const AttentionPoolingConfig config{.tokens = 2, .width = 4, .heads = 2, .hidden = 3};
  const Scope<B> scope = root(backend);
  const AttentionPooling<B> two(scope, config);
  scope.parameters->initialize(1);
  const Scope<B> other = root(backend);
  const AttentionPooling<B> three(other, {.tokens = 3, .width = 4, .heads = 2, .hidden = 3});
  other.parameters->initialize(1);
  check_near(outputs(two, {1, 2, 3, 4, 1, 2, 3, 4}, 1),
             outputs(three, {1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4}, 1),
             tolerance<typename B::Scalar>);
}

TEST_CASE("Layers say what is wrong with their sizes") {
  using B = CpuBackend<double>;
  B backend;
  const Scope<B> scope = root(backend);
  CHECK_THROWS_WITH_AS(Linear<B>(scope, 0, 3), "moxie::Linear: in is 0, expected >= 1",
                       config_error);
  CHECK_THROWS_WITH_AS(LayerNorm<B>(scope, -1), "moxie::LayerNorm: width is -1, expected >= 1",
                       config_error);
  CHECK_THROWS_WITH_AS(SelfAttention<B>(scope, {.tokens = 4, .width = 64, .heads = 3}),
                       "moxie::SelfAttention: heads is 3, expected a divisor of width, which is 64",
                       config_error);
  CHECK_THROWS_WITH_AS(
      PatchEmbedding<B>(scope, {.height = 32, .width = 30, .channels = 3, .patch = 4}, 8),
      "moxie::PatchEmbedding: patch is 4, expected a divisor of the image's height 32 and width 30",
      config_error);
  CHECK_THROWS_WITH_AS(SimplePooling<B>(scope, 4, 8, Pooling::map),
                       "moxie::SimplePooling: kind is Pooling::map, expected token or mean: "
                       "AttentionPooling is map",
                       config_error);
  CHECK_THROWS_WITH_AS(AttentionPooling<B>(scope, {.tokens = 4, .width = 8, .heads = 2}),
                       "moxie::AttentionPooling: hidden is 0, expected >= 1", config_error);
}

TEST_CASE("Layers say what is wrong with their arguments") {
  using B = CpuBackend<double>;
  B backend;
  const Scope<B> scope = root(backend);
  const Linear<B> linear(scope / "linear", 3, 2);
  const SelfAttention<B> self(scope / "self", {.tokens = 4, .width = 2, .heads = 1});
  const PatchEmbedding<B> patches(scope / "patches",
                                  {.height = 2, .width = 2, .channels = 1, .patch = 1}, 2);
  scope.parameters->initialize(1);
  std::vector<double> memory(100);
  double* p = memory.data();

  auto tape = make_tape(linear, 4);
  CHECK_THROWS_WITH_AS(linear.backward({p, 4, 2}, {}, tape),
                       "moxie::Linear::backward: there was no forward on this tape since its last "
                       "backward, or one without gradients (Pass::gradients)",
                       config_error);
  CHECK_THROWS_WITH_AS(linear.forward({p, 2, 4}, {p, 2, 2}, tape, {}),
                       "moxie::Linear::forward: x is [2 x 4], expected [rows x 3]", shape_error);
  CHECK_THROWS_WITH_AS(linear.forward({p, 5, 3}, {p, 5, 2}, tape, {}),
                       "moxie::Linear::forward: x has 5 rows, the tape was made for at most 4",
                       shape_error);
  linear.forward({p, 2, 3}, {p + 50, 2, 2}, tape, {});
  CHECK_THROWS_WITH_AS(
      linear.backward({p, 3, 2}, {}, tape),
      "moxie::Linear::backward: dy is [3 x 2], expected [2 x 2], the shape of this "
      "tape's last forward",
      shape_error);

  auto none = make_tape(linear, 4, Gradients::none);
  linear.forward({p, 2, 3}, {p + 50, 2, 2}, none, {});
  CHECK_THROWS_WITH_AS(linear.backward({p, 2, 2}, {}, none),
                       "moxie::Linear::backward: there was no forward on this tape since its last "
                       "backward, or one without gradients (Gradients::none in make_tape)",
                       config_error);

  auto self_tape = make_tape(self, 8);
  CHECK_THROWS_WITH_AS(self.forward({p, 6, 2}, {p, 6, 2}, self_tape, {}),
                       "moxie::SelfAttention::forward: x has 6 rows, expected a multiple of 4 "
                       "(tokens of an image)",
                       shape_error);
  auto patch_tape = make_tape(patches, 2);
  CHECK_THROWS_WITH_AS(patches.forward({p, 2, 4}, {p, 2, 8, 9}, patch_tape, {}),
                       "moxie::PatchEmbedding: y has a stride of 9 for 8 columns, expected rows "
                       "without gaps: their tokens are read as rows of one matrix",
                       shape_error);
}
