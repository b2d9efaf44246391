#pragma once

#include "moxie/backend/device/kernels/packs.hpp"
#include "moxie/core/math.hpp"
#include "moxie/ops/adam_w.hpp"
#include "moxie/ops/sgd.hpp"

#if defined(MOXIE_KERNELS)

/// Element-wise passes over flat vectors, 16 bytes an access where all of them lie alike:
/// AdamWUpdate, SgdUpdate, ClipToNorm.
namespace moxie::detail::device {

inline constexpr int flat_threads = 256;

/// Where the packs of a pass lie: elements [lead, lead + packs * pack_width), none if the vectors
/// are aligned differently.
struct FlatPacks {
  Index lead = 0;
  Index packs = 0;
};
/// `first`, `others`: the vectors of a pass, of `size` elements of T. Looks at addresses alone.
template <class T, class... Other>
FlatPacks flat_packs(Index size, const T* first, const Other*... others) {
  constexpr std::uintptr_t bytes = pack_width<T> * sizeof(T);
  const auto over = [](const auto* p) { return reinterpret_cast<std::uintptr_t>(p) % bytes; };
  if (((over(others) != over(first)) || ...)) return {};
  const auto lead = static_cast<Index>((bytes - over(first)) % bytes / sizeof(T));
  return lead < size ? FlatPacks{lead, (size - lead) / pack_width<T>} : FlatPacks{};
}

/// Every element of [0, size) once: `pass.begin()` tells what to do, `each<N>(at)` does it to N
/// neighbours.
template <class T, class Pass>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(flat_threads)
    flat_pass(Pass pass, Index size, FlatPacks packed) {
  constexpr Index width = pack_width<T>;
  const Index thread = Index{blockIdx.x} * flat_threads + static_cast<Index>(threadIdx.x);
  const Index threads = Index{gridDim.x} * flat_threads;
  const auto step = pass.begin();
  for (Index i = thread; i < packed.packs; i += threads)
    step.template each<pack_width<T>>(packed.lead + i * width);
  const Index in_packs = packed.packs * width;
  for (Index i = thread; i < size - in_packs; i += threads)
    step.template each<1>(i < packed.lead ? i : i + in_packs);
}

template <class T>
struct AdamWPass {
  T* values;
  const T* gradients;
  T* first;
  T* second;
  AdamWFactors<T> factors;

  MOXIE_DEVICE AdamWPass begin() const { return *this; }
  template <int N>
  MOXIE_DEVICE void each(Index at) const {
    Pack<T, N> p = load_pack<N>(values + at);
    const Pack<T, N> g = load_pack<N>(gradients + at);
    Pack<T, N> m = load_pack<N>(first + at);
    Pack<T, N> v = load_pack<N>(second + at);
    adam_w_step(factors, p.value, g.value, m.value, v.value);
    store_pack(first + at, m);
    store_pack(second + at, v);
    store_pack(values + at, p);
  }
};

template <class T>
struct SgdPass {
  T* values;
  const T* gradients;
  T* trace;
  SgdFactors<T> factors;

  MOXIE_DEVICE SgdPass begin() const { return *this; }
  template <int N>
  MOXIE_DEVICE void each(Index at) const {
    Pack<T, N> p = load_pack<N>(values + at);
    const Pack<T, N> g = load_pack<N>(gradients + at);
    Pack<T, N> t = load_pack<N>(trace + at);
    sgd_step(factors, p.value, g.value, t.value);
    store_pack(trace + at, t);
    store_pack(values + at, p);
  }
};

template <class T>
struct ScalePass {
  T* x;
  T factor;
  bool needed;

  template <int N>
  MOXIE_DEVICE void each(Index at) const {
    if (!needed) return;
    Pack<T, N> v = load_pack<N>(x + at);
    for (int i = 0; i < N; ++i) v.value[i] *= factor;
    store_pack(x + at, v);
  }
};

template <class T>
struct ClipPass {
  T* x;
  const double* squared_norm;
  double limit;

  MOXIE_DEVICE ScalePass<T> begin() const {
    const double norm = math::sqrt(*squared_norm);
    const bool needed = norm >= limit;
    return {x, needed ? static_cast<T>(limit / norm) : T(1), needed};
  }
};

}  // namespace moxie::detail::device

#endif
