#pragma once

#include "moxie/gate/concept.hpp"

namespace moxie {

/// A router whose layer scores tokens with another gate than LinearGate.
template <class G, class R>
struct WithGate : R {
  using GateType = G;
  G gate{};

  WithGate() = default;
  constexpr WithGate(G chosen, R base) : R(base), gate(chosen) {}
  friend constexpr bool operator==(const WithGate&, const WithGate&) = default;
};
template <class G, class R>
WithGate(G, R) -> WithGate<G, R>;

}  // namespace moxie
