#pragma once

#include <span>
#include <string_view>

#include "moxie/routing/soft.hpp"

namespace moxie {

/// Called once per MoE layer, in order, with what its tape holds after a forward. Views lie in the backend's
/// memory and are valid until the tape's next forward. Overload what is of interest.
template <Backend B>
class RoutingVisitor {
 public:
  virtual ~RoutingVisitor() = default;

  virtual void sparse(const SparseRouting<B>& /*routing*/) {}
  virtual void soft(const SoftRouting<B>& /*routing*/) {}
  /// Losses of the layer's regularizers in the last pass that asked for them, weighted; names beside them.
  virtual void losses(std::span<const std::string_view> /*names*/, ConstVector<B> /*values*/) {}
  /// After `losses` in a pass that asked for them: those told apart that a list made at run time
  /// (AnyRegularizers) reports there as one. Once for each such list.
  virtual void loss_parts(std::span<const std::string_view> /*names*/, ConstVector<B> /*values*/) {}

 protected:
  RoutingVisitor() = default;
  RoutingVisitor(const RoutingVisitor&) = default;  // not public: a copy would be sliced
  RoutingVisitor& operator=(const RoutingVisitor&) = default;
};

}  // namespace moxie
