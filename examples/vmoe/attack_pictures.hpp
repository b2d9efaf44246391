#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "data/image_set.hpp"
#include "moxie/nn/vit_config.hpp"
#include "moxie/routing/token_experts.hpp"

namespace vmoe {

/// Points that fell to an attack, as a report shows them.
class AttackPictures {
 public:
  /// At most `wanted` points; 0: none.
  AttackPictures(Index wanted, const moxie::VitConfig& vit, const ImageShape& image)
      : wanted_(wanted), vit_(vit), image_(image) {}

  struct Point {
    Index number = 0;  ///< among the test images
    Index label = 0;
    const float* clean = nullptr;  ///< pixels in [0, 1]
    const float* attacked = nullptr;
    const float* clean_scores = nullptr;
    const float* attacked_scores = nullptr;
    std::span<const moxie::TokenExperts> before;  ///< of its batch, by layer
    std::span<const moxie::TokenExperts> after;
    Index first_token = 0;  ///< of the image in the batch
  };
  /// Does nothing when there are enough.
  void add(const Point& point);

  /// Everything for write_attack_report.
  nlohmann::json page(const nlohmann::json& figures, const std::vector<std::string>& classes,
                      const std::vector<Index>& blocks, Index experts) const;

 private:
  nlohmann::json side(const Point& point, const float* scores,
                      std::span<const moxie::TokenExperts> layers) const;

  Index wanted_;
  moxie::VitConfig vit_;
  ImageShape image_;
  nlohmann::json images_ = nlohmann::json::array();
};

}  // namespace vmoe
