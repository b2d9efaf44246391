#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moxie/backend/cpu.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/nn/presets.hpp"
#include "moxie/nn/vit.hpp"
#include "moxie/optimizer/adam_w.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/regularizer/noisy_load.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/train/step.hpp"
#include "moxie/train/supervised.hpp"

namespace bench {

using B = moxie::CpuBackend<float>;
using moxie::Index;
using Layer = moxie::AnyLayer<B>;

/// The experts of the transformers that are timed: E = 8, K = 2, without drops, so that the work is the same whatever the router
/// learns.
inline Layer make_moe(const moxie::Scope<B>& scope, const moxie::VitConfig& vit, Index images) {
  return moxie::MoeLayer{
      scope,
      moxie::MoeShape{.width = vit.width, .experts = 8, .group = images * vit.tokens()},
      moxie::WithNoise{moxie::GaussianNoise{}, moxie::TopKRouter{.k = 2}},
      moxie::Dropless{},
      moxie::FeedForward<moxie::Gelu>{.hidden = vit.hidden},
      moxie::Importance{},
      moxie::NoisyLoad{}};
}

/// A preset for square images of that side, in ten classes and patches of 4 x 4.
inline moxie::VitConfig square_vit(const std::string& preset, Index side) {
  moxie::VitConfig vit = moxie::vit_preset(preset);
  vit.image_height = vit.image_width = side;
  vit.classes = 10;
  vit.patch = 4;
  return vit;
}

/// Whole training steps of a preset on square images (square_vit). Parameters start from the model's own seed, images are drawn
/// from 2.
struct VitStep {
  moxie::VitConfig vit;
  Index images;
  B cpu;
  Layer model;

  VitStep(moxie::Executor& executor, const std::string& preset, Index side, Index images_a_step)
      : vit(square_vit(preset, side)),
        images(images_a_step),
        cpu(executor),
        model(moxie::Vit<B>(
            cpu, vit,
            [this](const moxie::Scope<B>& scope, Index) { return make_moe(scope, vit, images); })),
        step_(model, moxie::Supervised{}, moxie::AdamW{}, model.parameters().range(), images,
              {.clip = moxie::ClipByGlobalNorm{1}}),
        x_(static_cast<std::size_t>(images * vit.pixels())),
        labels_(static_cast<std::size_t>(images * vit.classes)) {
    const moxie::Random random{2, 0, 0};
    for (std::size_t i = 0; i < x_.size(); ++i) x_[i] = static_cast<float>(random.normal(i));
    for (Index i = 0; i < images; ++i)
      labels_[static_cast<std::size_t>(i * vit.classes + i % vit.classes)] = 1;
  }
  VitStep(const VitStep&) = delete;
  VitStep& operator=(const VitStep&) = delete;

  void operator()() {
    const moxie::Batch<B> batch{{x_.data(), images, vit.pixels()},
                                {labels_.data(), images, vit.classes}};
    step_(batch, 1e-3, {.seed = 1, .step = at_++});
  }

 private:
  moxie::train::Step<Layer, moxie::Supervised, moxie::AdamW> step_;
  std::vector<float> x_, labels_;
  std::uint64_t at_ = 0;
};

}  // namespace bench
