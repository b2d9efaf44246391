#pragma once

#include "moxie/robust/metrics.hpp"
#include "moxie/robust/router_divergence.hpp"

namespace moxie {

/// RA-R of a model with MoE layers inside: the attack drives all routers away from what they say of
/// the clean image (RouterDivergence). With RouterLoss::preference, of a model that is routed once an
/// image, it is RouterAttack. Isolated: the accuracy of the model on the clean image, under
/// the routes of the perturbed one; transfer: on the perturbed one.
template <Layer L>
class LayeredRouterAttack {
  using B = typename L::BackendType;

 public:
  /// Room for batches of up to `images`. The model must outlive it.
  /// @throws config_error without random_start, or for more than one start
  LayeredRouterAttack(const L& model, const Pgd& pgd, Index images,
                      RouterLoss loss = RouterLoss::divergence)
      : routers_(RouterDivergence<L>(model, images, loss),
                 detail::RouteVerdict<L>::checked("moxie::LayeredRouterAttack", pgd), images),
        verdict_(model, pgd, images) {}

  /// x_adv: [images, D] what the routers are shown. Otherwise as ExpertAttack. Blocks.
  RobustCount operator()(const AttackBatch<B>& batch, PartMode mode, Matrix<B> x_adv,
                         IntVector<B> standing) {
    RobustCount count = verdict_.begin("moxie::LayeredRouterAttack", batch, standing);
    routers_.target().record(batch.x);
    routers_.attack().perturb(routers_.target(), batch, routers_.state(), x_adv);
    verdict_.finish(batch, mode, ConstMatrix<B>(x_adv), standing, count);
    return count;
  }

 private:
  RunAttack<RouterDivergence<L>, Pgd> routers_;
  detail::RouteVerdict<L> verdict_;
};

}  // namespace moxie
