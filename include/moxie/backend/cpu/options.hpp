#pragma once

#include <optional>

#include "moxie/backend/cpu/level.hpp"

namespace moxie {

/// Who multiplies matrices instead of the CPU backend's own tile product: `eigen_products`
/// (backend/cpu/eigen_product.hpp), or a BLAS of your own. It is handed in as an object, so that only programs
/// that include it compile it: Eigen's product alone is a third of what one layer costs to compile.
///
/// Not held to the promise of CpuBackend::batch_invariant, and may allocate. Called by several threads at once.
class ProductEngine {
 public:
  virtual ~ProductEngine() = default;
  /// c = alpha op(a) op(b) + beta c; shapes agree. With beta 0, c is not read.
  virtual void gemm(Op op_a, Op op_b, float alpha, MatrixView<const float> a, MatrixView<const float> b,
                    float beta, MatrixView<float> c) const = 0;
  virtual void gemm(Op op_a, Op op_b, double alpha, MatrixView<const double> a,
                    MatrixView<const double> b, double beta, MatrixView<double> c) const = 0;
};

/// Copies of expert weights that outlive a pass. `none`: products pack what they need. `packed`: tapes made without gradients
/// of weights keep the weights packed beside the parameters, as much memory again (twice with gradients of the input), made
/// anew in the first pass after a change. `bf16`: so do tapes with gradients of the input, but those without any keep them in
/// bf16, half as much memory: weights of experts (and, where that is faster, rows) are rounded to 8 bits of significand, sums are
/// float. CpuBackend<float> only.
enum class WeightCopies { none, packed, bf16 };

struct CpuOptions {
  std::optional<Level> level{};            ///< instead of the widest of this machine
  const ProductEngine* product = nullptr;  ///< null: own; else it must outlive the backend
  WeightCopies copies = WeightCopies::packed;
};

}  // namespace moxie
