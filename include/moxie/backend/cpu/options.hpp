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
  virtual void gemm(Op op_a, Op op_b, float alpha, MatrixView<const float> a,
                    MatrixView<const float> b, float beta, MatrixView<float> c) const = 0;
  virtual void gemm(Op op_a, Op op_b, double alpha, MatrixView<const double> a,
                    MatrixView<const double> b, double beta, MatrixView<double> c) const = 0;
};

namespace detail {
class NarrowWeights;
}

/// Copies of expert weights that outlive a pass. `none`: products pack what they need. `packed`: tapes made without gradients
/// of weights keep the weights packed beside the parameters, as much memory again (twice with gradients of the input), made
/// anew in the first pass after a change. `bf16_copies` (backend/cpu/bf16.hpp): so do tapes with gradients of the input, but those
/// without any keep them in bf16, half as much memory: weights of experts (and, where that is faster, rows) are rounded to 8 bits
/// of significand, sums are float. CpuBackend<float> only, and an object with its kernels, so that only programs that name it
/// compile them.
class WeightCopies {
 public:
  static const WeightCopies none, packed;

  constexpr explicit WeightCopies(bool kept, const detail::NarrowWeights* narrow = nullptr)
      : kept_(kept), narrow_(narrow) {}
  constexpr bool kept() const noexcept { return kept_; }
  /// Null: as wide as the weights.
  constexpr const detail::NarrowWeights* narrow() const noexcept { return narrow_; }

  friend constexpr bool operator==(const WeightCopies&, const WeightCopies&) = default;

 private:
  bool kept_;
  const detail::NarrowWeights* narrow_;
};
inline constexpr WeightCopies WeightCopies::none{false};
inline constexpr WeightCopies WeightCopies::packed{true};

struct CpuOptions {
  std::optional<Level> level{};            ///< instead of the widest of this machine
  const ProductEngine* product = nullptr;  ///< null: own; else it must outlive the backend
  WeightCopies copies = WeightCopies::packed;
};

}  // namespace moxie
