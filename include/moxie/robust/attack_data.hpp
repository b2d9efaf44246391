#pragma once

#include <concepts>

#include "moxie/core/error.hpp"
#include "moxie/robust/threat.hpp"

/// What an attack is given, looked at before it is used: only where the host can read the backend's
/// memory. On a device nothing is checked, and a label that is no class is read out of bounds.
namespace moxie::detail {

/// Whether a point is looked at at all: empty flags [R] mean that every one is.
template <Backend B>
bool stands(ConstIntVector<B> standing, Index i) {
  return i >= standing.size || standing[i] != 0;
}

/// `name` [R]: each is one of the classes, where its point stands.   Cost: O(R); no scratch.
/// @throws shape_error
template <Backend B>
void check_labels(const char* who, const char* name, ConstIntVector<B> labels, Index classes,
                  ConstIntVector<B> standing = {}) {
  if constexpr (std::same_as<typename B::Space, HostSpace>) {
    for (Index i = 0; i < labels.size; ++i)
      if (stands<B>(standing, i) && (labels[i] < 0 || labels[i] >= classes))
        throw_shape(who, ": ", name, "[", i, "] is ", labels[i], ", expected 0 to ", classes - 1,
                    " (the model's classes)");
  }
}

template <class A>
concept HasThreat = requires(const A& attack) {
  { (attack.threat) } -> std::same_as<const Threat&>;
};
template <class A>
concept MayProject = requires(const A& attack) {
  { (attack.project) } -> std::same_as<const bool&>;
};

/// The threat whose box an attack keeps to; null for one without a threat, or without projection
/// (V-MoE's).
template <class A>
const Threat* boxed_threat([[maybe_unused]] const A& attack) {
  if constexpr (HasThreat<A>) {
    if constexpr (MayProject<A>)
      if (!attack.project) return nullptr;
    return &attack.threat;
  } else {
    return nullptr;
  }
}

/// batch.y [R] are classes, and batch.x [R, D] lies inside the attack's box, if it has one; where
/// points stand. NaN passes: a score of NaN is no right answer.   Cost: O(R D); no scratch.
/// @throws shape_error
template <Backend B, class A, class Batch>
void check_attack_data(const char* who, const A& attack, const Batch& batch, Index classes,
                       ConstIntVector<B> standing = {}) {
  check_labels<B>(who, "batch.y", batch.y, classes, standing);
  if constexpr (std::same_as<typename B::Space, HostSpace>) {
    using T = typename B::Scalar;
    const Threat* threat = boxed_threat(attack);
    if (threat == nullptr) return;
    const T low = static_cast<T>(threat->low), high = static_cast<T>(threat->high);
    for (Index i = 0; i < batch.x.rows; ++i) {
      if (!stands<B>(standing, i)) continue;
      const T* pixels = batch.x.row(i);
      for (Index j = 0; j < batch.x.cols; ++j)
        if (pixels[j] < low || pixels[j] > high)
          throw_shape(who, ": batch.x[", i, "] has a pixel ", static_cast<double>(pixels[j]),
                      ", expected ", threat->low, " to ", threat->high, " (the threat's box)");
    }
  }
}

}  // namespace moxie::detail
