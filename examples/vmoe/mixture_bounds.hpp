#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "checkpoint_info.hpp"
#include "kernel_values.hpp"
#include "model.hpp"

namespace vmoe {

/// What the weights of a mixture of whole networks bound, as a map of pixels in [0, 1], in
/// L-infinity; formal all.
struct MixtureBounds {
  KernelValues router;  ///< [pixels, experts], of pixels as the data has them; empty: not linear
  double logits = 0;    ///< Lipschitz constant of the router's logits
  /// [experts][classes] of each class score of an expert; an empty list where none is known:
  /// experts with norms or attention
  std::vector<std::vector<double>> experts;

  bool bounded() const;
};

/// Those of the mixture in the scope `at` ("", or "Robust/" in a dual model).
MixtureBounds mixture_bounds(const Model& model, const std::string& at, const CheckpointInfo& info,
                             const ModelPlan& plan);

/// Constants of gate and experts as `vmoe certify` shows them, of MoE layer `block`.
nlohmann::json to_json(const MixtureBounds& bounds, Index block);

}  // namespace vmoe
