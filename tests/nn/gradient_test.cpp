// Gradients down to the input, and the laws of Layer, of every layer of nn/.
#include "moxie/capacity/factor.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/nn/vit.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/router/top_k.hpp"
#include "nn/layers.hpp"

namespace gradient_test {

namespace {

using moxie::Index;
using moxie::test::check_layer;

template <class B, class Make>
void check(Index rows, const moxie::testing::GradientOptions<B>& options, const Make& make) {
  B backend = moxie::test::make_backend<B>();
  const moxie::Scope<B> scope = moxie::root(backend);
  const moxie::AnyLayer<B> layer = make(scope);  // one type: the checks take seconds to compile
  scope.parameters->initialize(3);
  check_layer(layer, rows, options);
}

}  // namespace

TEST_CASE_TEMPLATE("Linear obeys the Layer laws", B, MOXIE_DOUBLE_BACKENDS) {
  check<B>(6, {}, [](const auto& scope) { return moxie::Linear<B>(scope, 5, 7); });
  check<B>(6, {}, [](const auto& scope) {
    return moxie::Linear<B>(scope, 5, 7, {.bias = false, .kernel_start = {}, .bias_start = {}});
  });
}
TEST_CASE_TEMPLATE("LayerNorm obeys the Layer laws", B, MOXIE_DOUBLE_BACKENDS) {
  check<B>(5, {}, [](const auto& scope) { return moxie::LayerNorm<B>(scope, 37); });
}
TEST_CASE_TEMPLATE("Mlp obeys the Layer laws", B, MOXIE_DOUBLE_BACKENDS) {
  check<B>(5, {}, [](const auto& scope) { return moxie::Mlp<B>(scope, 4, 18, 3); });
  check<B>(5, {}, [](const auto& scope) { return moxie::Mlp<B, moxie::Silu>(scope, 4, 7, 4); });
}
TEST_CASE_TEMPLATE("SelfAttention obeys the Layer laws", B, MOXIE_DOUBLE_BACKENDS) {
  check<B>(6, {.row_multiple = 3}, [](const auto& scope) {
    return moxie::SelfAttention<B>(scope, {.tokens = 3, .width = 8, .heads = 2});
  });
}
TEST_CASE_TEMPLATE("AttentionPooling obeys the Layer laws", B, MOXIE_DOUBLE_BACKENDS) {
  check<B>(4, {.strided = false}, [](const auto& scope) {
    return moxie::AttentionPooling<B>(scope, {.tokens = 3, .width = 8, .heads = 2, .hidden = 5});
  });
}
TEST_CASE_TEMPLATE("PatchEmbedding obeys the Layer laws", B, MOXIE_DOUBLE_BACKENDS) {
  check<B>(4, {.strided = false}, [](const auto& scope) {
    return moxie::PatchEmbedding<B>(scope, {.height = 4, .width = 6, .channels = 3, .patch = 2}, 5);
  });
}
TEST_CASE_TEMPLATE("ClassToken and PositionEmbedding obey the Layer laws", B,
                   MOXIE_DOUBLE_BACKENDS) {
  check<B>(4, {}, [](const auto& scope) { return moxie::ClassToken<B>(scope, 3, 5); });
  using enum moxie::Positions;
  for (const moxie::Positions kind : {learned, sincos2d, none})
    check<B>(4, {}, [kind](const auto& scope) {
      return moxie::PositionEmbedding<B>(
          scope, {.grid = {2, 3}, .width = 8, .class_token = true, .kind = kind});
    });
}
TEST_CASE_TEMPLATE("SimplePooling obeys the Layer laws", B, MOXIE_DOUBLE_BACKENDS) {
  for (const moxie::Pooling kind : {moxie::Pooling::token, moxie::Pooling::mean})
    check<B>(4, {},
             [kind](const auto& scope) { return moxie::SimplePooling<B>(scope, 3, 17, kind); });
}
TEST_CASE_TEMPLATE("EncoderBlock obeys the Layer laws", B, MOXIE_DOUBLE_BACKENDS) {
  check<B>(6, {.row_multiple = 3}, [](const auto& scope) {
    return moxie::EncoderBlock<B>(scope, {.tokens = 3, .width = 8, .heads = 2},
                                  moxie::Mlp<B>(scope / "Mlp", 8, 6, 8));
  });
}
TEST_CASE_TEMPLATE("Vit obeys the Layer laws with every pooling and position", B,
                   MOXIE_DOUBLE_BACKENDS) {
  const auto check_vit = [](moxie::Pooling pooling, moxie::Positions positions) {
    check<B>(3, {.most_inputs = 60, .most_per_entry = 12}, [=](const auto& scope) {
      return moxie::Vit<B>(scope, {.image_height = 4,
                                   .image_width = 6,
                                   .channels = 2,
                                   .patch = 2,
                                   .width = 8,
                                   .blocks = 2,
                                   .heads = 2,
                                   .hidden = 6,
                                   .classes = 3,
                                   .pooling = pooling,
                                   .positions = positions});
    });
  };
  check_vit(moxie::Pooling::mean, moxie::Positions::learned);
  check_vit(moxie::Pooling::mean, moxie::Positions::none);
  check_vit(moxie::Pooling::token, moxie::Positions::sincos2d);
  check_vit(moxie::Pooling::token, moxie::Positions::none);
  check_vit(moxie::Pooling::map, moxie::Positions::learned);
}
TEST_CASE("Vit obeys the Layer laws with mixtures of experts and their losses") {
  using B = moxie::CpuBackend<double>;
  const moxie::VitConfig config{.image_height = 4,
                                .image_width = 4,
                                .channels = 1,
                                .patch = 2,
                                .width = 8,
                                .blocks = 3,
                                .heads = 2,
                                .hidden = 6,
                                .classes = 3,
                                .pooling = moxie::Pooling::token,
                                .moe_blocks = {0, 2}};
  check<B>(4, {.step = 1e-6, .most_per_entry = 30}, [&](const auto& scope) {
    return moxie::Vit<B>(scope, config, [&](const moxie::Scope<B>& at, Index) {
      return moxie::AnyLayer<B>(moxie::MoeLayer{at,
                                                {.width = 8, .experts = 3},
                                                moxie::TopKRouter{.k = 2},
                                                moxie::CapacityFactor{.factor = 1.1},
                                                moxie::FeedForward<moxie::Gelu>{.hidden = 5},
                                                moxie::Importance{.weight = 0.3}});
    });
  });
}

}  // namespace gradient_test
