#include "moe_feed.hpp"

#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/regularizer/noisy_load.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/runtime/any_capacity.hpp"

namespace vmoe {
namespace {

using Capacity = moxie::WithPriority<moxie::AnyPriority,
                                     moxie::TrainEval<moxie::AnyCapacity, moxie::AnyCapacity>>;

Capacity make_capacity(const Options& o) {
  const auto factor = [&o](double f) {
    return moxie::CapacityFactor{.factor = f, .multiple_of = o.capacity_multiple};
  };
  moxie::AnyCapacity eval = moxie::Dropless{};
  if (o.eval_capacity_factor > 0) eval = factor(o.eval_capacity_factor);
  return {moxie::make_priority(o.priority), {factor(o.capacity_factor), eval}};
}

}  // namespace

Model make_moe_feed(const moxie::Scope<Backend>& scope, const Options& o,
                    const moxie::VitConfig& vit) {
  return moxie::MoeLayer{
      scope,
      moxie::MoeShape{
          .width = vit.width, .experts = o.experts, .group = o.group_images * vit.tokens()},
      moxie::WithNoise{moxie::GaussianNoise{.std = o.noise},
                       moxie::TopKRouter{.k = o.k, .renormalize = o.renormalize}},
      make_capacity(o),
      moxie::FeedForward<moxie::Gelu>{.hidden = vit.hidden, .same_experts = o.same_experts},
      moxie::Importance{.weight = o.importance},
      moxie::NoisyLoad{.weight = o.noise > 0 ? o.load : 0}};
}

}  // namespace vmoe
