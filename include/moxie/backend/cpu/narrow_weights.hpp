#pragma once

#include <cstddef>
#include <cstdint>

#include "moxie/backend/cpu/expert_tasks.hpp"
#include "moxie/core/executor.hpp"

namespace moxie::detail {

/// out[r, :] = x(r, :) w_e for the rows of all experts, from a narrow copy of the weights.
struct NarrowProduct {
  Executor* executor;  // null: the calling thread alone
  Level level;
  Factor<float> x;  // op none
  VectorView<const std::int32_t> offset;
  Index inner;
  const void* weights;            // what `pack` wrote
  VectorView<std::byte> working;  // of scratch_bytes for each worker
  MatrixView<float> out;
  TileEnd end;
};

/// Weights of experts [E, K, N] in fewer bits, and their products: backend/cpu/bf16.hpp has one. Only programs that hand it to
/// a backend compile it.
class NarrowWeights {
 public:
  /// Of a copy.
  virtual std::size_t bytes(Index experts, Index inner, Index cols) const = 0;
  /// Scratch of one worker. `widest`: the larger of K and N, of all products.
  virtual Index scratch_bytes(Index widest) const = 0;
  virtual void pack(Level level, MatrixView<const float> w, Index experts, void* out) const = 0;
  virtual void product(const NarrowProduct& p) const = 0;

 protected:
  ~NarrowWeights() = default;
};

}  // namespace moxie::detail
