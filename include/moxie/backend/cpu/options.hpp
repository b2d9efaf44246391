#pragma once

#include <optional>

#include "moxie/backend/cpu/level.hpp"

namespace moxie {

/// Who multiplies matrices. `own`: the tile product, row-invariant, without allocation. `eigen`: Eigen's, a
/// second opinion; it may allocate, is compiled for the instruction set of the file it stands in, and does
/// not keep the promise of CpuBackend::batch_invariant.
enum class Product { own, eigen };

struct CpuOptions {
  std::optional<Level> level{};    ///< instead of the widest of this machine
  Product product = Product::own;
};

}  // namespace moxie
