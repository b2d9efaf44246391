#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "session.hpp"

namespace vmoe {

/// Standard and robust accuracy of some test images while a model is trained, and the margins of
/// the classes: those of a dual model, and of its parts. What PGD's last image is decides. Each
/// image is in a group of its own: none takes the place of another.
class RobustCheck {
 public:
  /// Draws options.robust_images test images. The session must outlive it.
  explicit RobustCheck(Session& session);
  ~RobustCheck();

  /// {"images", "steps", "sa", "ra", "margins"}, percent of these images; the margin of a class
  /// without images is null. Of a dual model also "standard" and "robust" with "sa" and "ra".
  nlohmann::json run();

 private:
  struct Part;
  Session& s_;
  ImageSet images_;
  std::optional<Model> alone_;  // with the session's values, where that groups several images
  std::vector<std::unique_ptr<Part>> parts_;
};

}  // namespace vmoe
