#pragma once

#include "moxie/capacity/dropless.hpp"
#include "moxie/capacity/factor.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/nn/vit.hpp"
#include "moxie/router/top_k.hpp"
#include "robust/models.hpp"

namespace moxie::test {

constexpr Index moe_images = 14, moe_pixels = 16, moe_classes = 3, moe_tokens = 4;

/// A small V-MoE whose experts drop tokens: groups of one image.
inline Vit<CpuBackend<double>> small_moe(CpuBackend<double>& backend) {
  using B = CpuBackend<double>;
  VitConfig config{.image_height = 4, .image_width = 4, .channels = 1, .patch = 2};
  config.width = 8;
  config.blocks = 2;
  config.moe_blocks = {0, 1};
  config.heads = 2;
  config.hidden = 6;
  config.classes = moe_classes;
  config.pooling = Pooling::mean;
  Vit<B> model(backend, config, [](const Scope<B>& scope, Index) {
    return AnyLayer<B>(MoeLayer(scope, {.width = 8, .experts = 4, .group = moe_tokens},
                                TopKRouter{.k = 2}, CapacityFactor{.factor = 1},
                                FeedForward<Gelu>{.hidden = 8}));
  });
  const auto values = model.parameters().edit();
  const auto draw = normals(values.size, 5);
  for (Index i = 0; i < values.size; ++i) values[i] += 0.4 * draw[static_cast<std::size_t>(i)];
  return model;
}

}  // namespace moxie::test
