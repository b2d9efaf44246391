#pragma once

#include "moxie/capacity/factor.hpp"
#include "moxie/capacity/tutel.hpp"

/// The capacity rules of other systems by name, so that "capacity factor 1" can be compared: for 50
/// tokens, 8 experts and one choice it is 6 slots in MegaBlocks, 7 in DeepSpeed, Megatron-Core and
/// Tutel, 8 in V-MoE. All are values of CapacityFactor or TutelCapacity. Their minima (DeepSpeed's
/// 4, say) are options there and left out here, and they may multiply in another order or in float,
/// which matters only where the product is meant to be whole.
namespace moxie {

/// `vmoe/moe.py`, compute_capacity: up, then to a multiple of 4.
constexpr CapacityFactor vmoe_capacity(double factor) {
  return {.factor = factor, .rounding = Rounding::ceil, .multiple_of = 4};
}
/// `deepspeed/moe/sharded_moe.py`, _capacity: up.
constexpr CapacityFactor deepspeed_capacity(double factor) {
  return {.factor = factor, .rounding = Rounding::ceil};
}
/// `megatron/core/transformer/moe/moe_utils.py`, get_capacity: up.
constexpr CapacityFactor megatron_capacity(double factor) {
  return {.factor = factor, .rounding = Rounding::ceil};
}
/// `megablocks/layers/moe.py`, expert_capacity: down.
constexpr CapacityFactor megablocks_capacity(double factor) {
  return {.factor = factor, .rounding = Rounding::floor};
}
/// `tutel/impls/fast_dispatch.py`, extract_critical.
constexpr TutelCapacity tutel_capacity(double factor) { return {.factor = factor}; }

}  // namespace moxie
