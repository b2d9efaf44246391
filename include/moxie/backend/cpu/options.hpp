#pragma once

#include <optional>

#include "moxie/backend/cpu/level.hpp"

namespace moxie {

/// Who multiplies matrices. `own`: the tile product, row-invariant, without allocation. `eigen`: Eigen's, a
/// second opinion; it may allocate, is compiled for the instruction set of the file it stands in, and does
/// not keep the promise of CpuBackend::batch_invariant.
enum class Product { own, eigen };

/// Copies of expert weights that outlive a pass. `none`: products pack what they need. `packed`: tapes made without gradients
/// of weights keep the weights packed beside the parameters, as much memory again (twice with gradients of the input), made
/// anew in the first pass after a change. `bf16`: so do tapes with gradients of the input, but those without any keep them in
/// bf16, half as much memory: weights of experts (and, where that is faster, rows) are rounded to 8 bits of significand, sums are
/// float. CpuBackend<float> only.
enum class WeightCopies { none, packed, bf16 };

struct CpuOptions {
  std::optional<Level> level{};    ///< instead of the widest of this machine
  Product product = Product::own;
  WeightCopies copies = WeightCopies::packed;
};

}  // namespace moxie
