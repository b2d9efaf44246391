#pragma once

#include <vector>

#include "moxie/ops/argmax.hpp"
#include "moxie/robust/attack_loss.hpp"
#include "moxie/robust/pgd.hpp"
#include "moxie/robust/recorded_routes.hpp"

namespace moxie {

/// Points of an evaluation: of all, how many were right, and how many are still right under an
/// attack. Add up batches.
struct RobustCount {
  Index images = 0;
  Index clean = 0;
  Index robust = 0;  ///< right before and after

  /// Standard accuracy, percent of all images.
  double sa() const { return percent(clean); }
  /// Robust accuracy, percent of all images.
  double ra() const { return percent(robust); }
  RobustCount& operator+=(const RobustCount& o) {
    images += o.images;
    clean += o.clean;
    robust += o.robust;
    return *this;
  }
  friend constexpr bool operator==(const RobustCount&, const RobustCount&) = default;

 private:
  double percent(Index n) const {
    return images > 0 ? 100.0 * static_cast<double>(n) / static_cast<double>(images) : 0.0;
  }
};

/// How many flags are not 0. Blocks.
template <Backend B>
Index count_standing(B& b, ConstIntVector<B> standing) {
  std::vector<std::int32_t> host(static_cast<std::size_t>(standing.size));
  if (!host.empty()) b.copy_to_host(host.data(), standing.data, host.size() * sizeof(std::int32_t));
  Index n = 0;
  for (const std::int32_t s : host) n += s != 0 ? 1 : 0;
  return n;
}

/// SA and RA of one batch: what the target of `attack` gets right, and still does. standing[i] = 1
/// for those; x_adv has the rows that were found. Blocks.
/// @throws shape_error for labels that are no classes and, if the attack keeps to a box, for images
/// outside it; neither is checked on a device
template <AttackTarget M, Attack<M> A, class B = typename M::BackendType>
RobustCount evaluate_attack(RunAttack<M, A>& attack, const AttackBatch<B>& batch, Matrix<B> x_adv,
                            IntVector<B> standing) {
  B& b = attack.target().backend();
  RobustCount count{.images = batch.x.rows};
  detail::check_attack_data<B>("moxie::evaluate_attack", attack.attack(), batch,
                               attack.target().classes());
  attack.find_correct(batch, standing);
  count.clean = count_standing(b, ConstIntVector<B>(standing));
  attack.attack().run(attack.target(), batch, attack.state(), x_adv, standing);
  count.robust = count_standing(b, ConstIntVector<B>(standing));
  return count;
}

/// What of a model an attack on its parts is judged by.
enum class PartMode {
  isolated,  ///< only the part that was attacked sees the perturbed image
  transfer   ///< the whole model sees it
};

namespace detail {
template <Backend B>
struct KeepBoth {
  static constexpr bool one_level = true;
  ConstIntVector<B> other;
  IntVector<B> standing;

  MOXIE_HD void operator()(Index i) const {
    if (other[i] == 0) standing[i] = 0;
  }
};
}  // namespace detail

/// RA-E: the experts are attacked, while routes and gate weights stay those of the clean images.
/// Isolated: the accuracy of the experts under these routes; transfer: that of the whole model on
/// the images that were found. PGD's last image counts in both, whatever its `any_step` says.
template <Layer L>
class ExpertAttack {
  using B = typename L::BackendType;

 public:
  /// Room for batches of up to `images`. The model must outlive it.
  /// @throws config_error for more than one start
  ExpertAttack(const L& model, const Pgd& pgd, Index images)
      : frozen_(FrozenRoutes<L>(model, images), last_of(pgd), images),
        whole_(LayerTarget<L>(model), pgd, images),
        right_(model.parameters().backend(), images) {}

  /// standing[i] = 1 for points right before and after; x_adv: [images, D] as `mode` leaves it:
  /// isolated the rows of points that fell, transfer all. Blocks.
  /// @throws shape_error for labels that are no classes and, if `pgd` projects, for images outside
  /// its box; neither is checked on a device
  RobustCount operator()(const AttackBatch<B>& batch, PartMode mode, Matrix<B> x_adv,
                         IntVector<B> standing) {
    B& b = whole_.target().backend();
    RobustCount count{.images = batch.x.rows};
    detail::check_attack_data<B>("moxie::ExpertAttack", whole_.attack(), batch,
                                 whole_.target().classes());
    whole_.find_correct(batch, standing);
    count.clean = count_standing(b, ConstIntVector<B>(standing));
    frozen_.target().record(batch.x);
    if (mode == PartMode::isolated) {
      frozen_.attack().run(frozen_.target(), batch, frozen_.state(), x_adv, standing);
    } else {
      frozen_.attack().perturb(frozen_.target(), batch, frozen_.state(), x_adv);
      const IntVector<B> right = right_.view().middle(0, batch.x.rows);
      whole_.find_correct(ConstMatrix<B>(x_adv), batch.y, right);
      b.for_each(batch.x.rows, detail::KeepBoth<B>{right, standing});
    }
    count.robust = count_standing(b, ConstIntVector<B>(standing));
    return count;
  }

 private:
  static Pgd last_of(Pgd pgd) {
    detail::check_one_start("moxie::ExpertAttack", "pgd", pgd);
    pgd.any_step = false;
    return pgd;
  }

  RunAttack<FrozenRoutes<L>, Pgd> frozen_;
  RunAttack<LayerTarget<L>, Pgd> whole_;
  Buffer<B, std::int32_t> right_;
};

namespace detail {
/// Counts what is left of a model when its routes are those of other images.
template <Layer L>
class RouteVerdict {
  using B = typename L::BackendType;

 public:
  RouteVerdict(const L& model, const Pgd& pgd, Index images)
      : routes_(FrozenRoutes<L>(model, images), pgd, images),
        whole_(LayerTarget<L>(model), pgd, images),
        right_(model.parameters().backend(), images) {}

  B& backend() { return routes_.target().backend(); }
  /// standing: what the model gets right. Blocks.
  RobustCount begin(const char* who, const AttackBatch<B>& batch, IntVector<B> standing) {
    RobustCount count{.images = batch.x.rows};
    check_attack_data<B>(who, whole_.attack(), batch, whole_.target().classes());
    whole_.find_correct(batch, standing);
    count.clean = count_standing(backend(), ConstIntVector<B>(standing));
    return count;
  }
  /// ... and still does: isolated, clean images under the routes of x_adv; transfer, x_adv. Blocks.
  void finish(const AttackBatch<B>& batch, PartMode mode, ConstMatrix<B> x_adv,
              IntVector<B> standing, RobustCount& count) {
    B& b = backend();
    const Index n = batch.x.rows;
    const IntVector<B> right = right_.view().middle(0, n);
    if (mode == PartMode::isolated) {
      routes_.target().record(x_adv);
      routes_.find_correct(batch.x, batch.y, right);
    } else {
      whole_.find_correct(x_adv, batch.y, right);
    }
    b.for_each(n, KeepBoth<B>{right, standing});
    count.robust = count_standing(b, ConstIntVector<B>(standing));
  }
  /// A router that is sure of its expert has no gradient at the image itself, and neither has a
  /// distance from what the router says of it.
  static const Pgd& checked(const char* who, const Pgd& pgd) {
    check_one_start(who, "pgd", pgd);
    if (pgd.targeted)
      throw_config(who,
                   ": targeted is true, expected false: a router is driven away from its expert");
    if (!pgd.random_start)
      throw_config(who,
                   ": random_start is false, expected true: a router that is sure of its expert "
                   "has no gradient at the image itself");
    return pgd;
  }

 private:
  RunAttack<FrozenRoutes<L>, Pgd> routes_;
  RunAttack<LayerTarget<L>, Pgd> whole_;
  Buffer<B, std::int32_t> right_;
};
}  // namespace detail

/// RA-R of a model that is routed once an image: the attack drives the router away from the expert
/// that it prefers on the clean image, by the cross-entropy of its scores. Isolated: the accuracy
/// of the model on the clean image, under the routes of the perturbed one; transfer: on the
/// perturbed one. `Z` is an AttackTarget whose classes are the experts: what turns images into
/// what the router selects by. LayeredRouterAttack is that of a model with routers inside.
template <Layer L, AttackTarget Z>
class RouterAttack {
  using B = typename L::BackendType;

 public:
  /// Room for batches of up to `images`. Model and router must outlive it.
  /// @throws config_error without random_start, for more than one start, or if targeted
  RouterAttack(const L& model, Z router, const Pgd& pgd, Index images)
      : router_(std::move(router), detail::RouteVerdict<L>::checked("moxie::RouterAttack", pgd),
                images),
        verdict_(model, pgd, images),
        expert_(model.parameters().backend(), images),
        point_(model.parameters().backend(), images),
        logits_(model.parameters().backend(), images * router_.target().classes()) {}

  /// x_adv: [images, D] what the router is shown. Otherwise as ExpertAttack. Blocks.
  RobustCount operator()(const AttackBatch<B>& batch, PartMode mode, Matrix<B> x_adv,
                         IntVector<B> standing) {
    RobustCount count = verdict_.begin("moxie::RouterAttack", batch, standing);
    Z& router = router_.target();
    const Index n = batch.x.rows;
    points_of(n);
    const Matrix<B> logits(logits_.view().data, n, router.classes());
    router.scores(batch.x, point_.view().middle(0, n), logits);
    const IntVector<B> expert = expert_.view().middle(0, n);
    argmax_rows(router.backend(), ConstMatrix<B>(logits), expert);
    AttackBatch<B> away = batch;
    away.y = expert;
    away.target = {};  // the model's classes, not the router's
    router_.attack().perturb(router, away, router_.state(), x_adv);
    verdict_.finish(batch, mode, ConstMatrix<B>(x_adv), standing, count);
    return count;
  }

 private:
  /// The numbers 0 .. n - 1, which a target may ask for.
  void points_of(Index n) {
    std::vector<std::int32_t> host(static_cast<std::size_t>(n));
    for (Index i = 0; i < n; ++i) host[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i);
    if (n > 0)
      router_.target().backend().copy_from_host(point_.view().data, host.data(),
                                                host.size() * sizeof(std::int32_t));
  }
  RunAttack<Z, Pgd> router_;
  detail::RouteVerdict<L> verdict_;
  Buffer<B, std::int32_t> expert_, point_;
  Buffer<B, typename B::Scalar> logits_;
};

/// Mean margin z_y - max over j != y of z_j of each class. Add batches, then read.
class ClassMargins {
 public:
  explicit ClassMargins(Index classes)
      : sum_(static_cast<std::size_t>(classes)), count_(sum_.size()) {}

  /// scores: [R, classes], y: [R]. Blocks.
  template <Backend B>
  void add(B& b, ConstMatrix<B> scores, ConstIntVector<B> y) {
    using T = typename B::Scalar;
    const auto n = static_cast<std::size_t>(scores.rows);
    if (n == 0) return;
    std::vector<std::int32_t> rows(n), own(n);
    for (std::size_t i = 0; i < n; ++i) rows[i] = static_cast<std::int32_t>(i);
    const Buffer<B, std::int32_t> image(b, scores.rows);
    b.copy_from_host(image.view().data, rows.data(), n * sizeof(std::int32_t));
    const Buffer<B, T> losses(b, scores.rows);
    attack_losses(b, AttackLoss::margin, scores, ConstIntVector<B>(image.view()), y,
                  ConstIntVector<B>{}, losses.view(), Matrix<B>{}, IntVector<B>{});
    std::vector<T> host(n);
    b.copy_to_host(host.data(), losses.view().data, n * sizeof(T));
    b.copy_to_host(own.data(), y.data, n * sizeof(std::int32_t));
    for (std::size_t i = 0; i < n; ++i) {
      const auto c = static_cast<std::size_t>(own[i]);
      sum_.at(c) -= static_cast<double>(host[i]);
      ++count_.at(c);
    }
  }
  /// 0 for a class without images.
  double mean(Index c) const {
    const auto i = static_cast<std::size_t>(c);
    return count_.at(i) > 0 ? sum_[i] / static_cast<double>(count_[i]) : 0.0;
  }

 private:
  std::vector<double> sum_;
  std::vector<Index> count_;
};

}  // namespace moxie
