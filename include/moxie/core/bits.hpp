#pragma once

#include "moxie/core/host_device.hpp"
#include "moxie/core/view.hpp"

namespace moxie::detail {

/// Bits of keys below `count`, at least 1.
MOXIE_HD constexpr int bits_for(Index count) {
  int bits = 1;
  while ((Index{1} << bits) < count) ++bits;
  return bits;
}

}  // namespace moxie::detail
