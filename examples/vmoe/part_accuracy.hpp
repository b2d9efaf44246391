#pragma once

#include <memory>
#include <string>

#include "moxie/robust/layered_router_attack.hpp"
#include "pixel_model.hpp"

namespace vmoe {

/// RA-E and RA-R of a model with MoE layers, batch by batch.
class PartAccuracy {
 public:
  /// The model must outlive it.
  PartAccuracy(const PixelModel& model, const moxie::Pgd& pgd, moxie::PartMode mode,
               moxie::RouterLoss loss, Index images);
  ~PartAccuracy();

  void add(const moxie::AttackBatch<Backend>& batch);
  const moxie::RobustCount& experts() const { return experts_; }
  const moxie::RobustCount& routers() const { return routers_; }

  /// Why the two are not defined for a model, or nothing: one look at images [n, D].
  static std::string undefined(const PixelModel& model, moxie::ConstMatrix<Backend> images);

 private:
  struct Attacks;
  std::unique_ptr<Attacks> attacks_;
  moxie::PartMode mode_;
  moxie::RobustCount experts_, routers_;
};

}  // namespace vmoe
