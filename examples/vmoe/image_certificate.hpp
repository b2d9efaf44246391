#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "checkpoint_info.hpp"
#include "image_moe.hpp"
#include "mixture_bounds.hpp"
#include "moxie/robust/certificate.hpp"

namespace vmoe {

/// What the best expert of a mixture of whole networks makes of an image.
struct ExpertView {
  double route = 0;              ///< L-infinity radius within which it stays the best
  double gate = 1;               ///< its weight
  std::vector<double> scores;    ///< [classes], before the weight
  std::vector<double> expert;    ///< [classes] Lipschitz constants of these
  std::vector<double> weighted;  ///< [classes] slopes of the weighted scores, while the route holds
};

/// Certificates of mixtures of whole networks, and of dual models of two, at all images of a set.
///
/// They are sound where K = 1, a linear softmax router takes the largest logit, and experts are
/// residual networks without norms. Otherwise `reasons` says why not, and shares are null.
class ImageCertificates {
 public:
  /// Of one mixture. `images` are test images as the data has them.
  ImageCertificates(const Model& model, const CheckpointInfo& info, const ModelPlan& plan,
                    const ImageSet& images);
  /// Of both parts of a dual model, whatever its options.
  ImageCertificates(const Dual& dual, const CheckpointInfo& info, const ModelPlan& plan,
                    const ImageSet& images);

  bool applies() const { return reasons_.empty(); }
  /// "certificate", "reasons" and "layers".
  nlohmann::json figures() const;
  /// Shares of the images at each radius: "certified" ones are right, and of a sound radius at least
  /// as large; "limited_by_route" ones are right and not certified, for a router's sake alone;
  /// "published" are those by the published formula, a diagnostic.
  nlohmann::json shares(const std::vector<double>& radii) const;
  /// Those of the dual model with these options. "certified" takes at each image the larger of two
  /// radii: "robust_alone", of a mixture of probabilities with alpha above 1/2, which the standard
  /// part cannot outvote whatever it does, and "pair", from bounds of both parts. "published" is
  /// that of the robust part alone. null: it is not applicable.
  nlohmann::json shares(const std::vector<double>& radii, const moxie::DualOptions& options) const;

 private:
  void add(const Model& part, const std::string& at, const CheckpointInfo& info,
           const ModelPlan& plan, const ImageSet& images);

  std::vector<std::string> reasons_;
  std::vector<MixtureBounds> bounds_;           // of each part
  std::vector<std::vector<ExpertView>> views_;  // of each part and image
  std::vector<Index> labels_;
};

/// "certificate", "reasons", "radii" and "layers" of `vmoe certify` for a checkpoint of mixtures of
/// whole networks; of a dual model also its "alpha" and "space".
nlohmann::json certify_image_moe(Backend& backend, const std::filesystem::path& file,
                                 const CheckpointInfo& info, const ModelPlan& plan,
                                 const ImageSet& images, const std::vector<double>& radii);

}  // namespace vmoe
