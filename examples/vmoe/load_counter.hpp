#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "model.hpp"

namespace vmoe {

/// How the assignments of some passes fell on the experts of each MoE layer.
class LoadCounter final : public moxie::RoutingVisitor<Backend> {
 public:
  struct Layer {
    std::vector<double> kept;  ///< assignments each expert took
    double chosen = 0;         ///< assignments the router made
    double dropped = 0;        ///< of them, without a slot
    double dropped_share() const { return chosen > 0 ? dropped / chosen : 0; }
  };

  /// Before the visit of a pass: its MoE layers are counted from the first again.
  void begin_pass() { next_ = 0; }
  void sparse(const moxie::SparseRouting<Backend>& routing) override;

  const std::vector<Layer>& layers() const { return layers_; }
  double dropped_share() const;  ///< over all layers
  /// Weighted losses of all regularizers in the last pass, added up.
  double regularizers() const { return regularizers_; }
  void losses(std::span<const std::string_view> names, moxie::ConstVector<Backend> values) override;

  /// [{"block", "load": share of each expert, "dropped"}]; blocks[i] holds the i-th MoE layer.
  nlohmann::json to_json(const std::vector<Index>& blocks) const;

 private:
  std::vector<Layer> layers_;
  std::size_t next_ = 0;
  double regularizers_ = 0;
};

}  // namespace vmoe
