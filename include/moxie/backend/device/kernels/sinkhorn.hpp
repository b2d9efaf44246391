#pragma once

#include "moxie/backend/device/portable.hpp"

#if defined(MOXIE_KERNELS)

#include <cstddef>
#include <cstdint>

#include "moxie/backend/device/kernels/warp.hpp"
#include "moxie/core/math.hpp"
#include "moxie/core/view.hpp"
#include "moxie/ops/sinkhorn.hpp"

/// All of Sinkhorn for a group in one block: potentials and partial sums in shared memory, the
/// matrix in the plan's. Sums in the order of the generic form.
namespace moxie::detail::device {

inline constexpr int sinkhorn_threads = 256;
inline constexpr Index sinkhorn_most = Index{1} << 16;         ///< entries of a group for one block
inline constexpr std::size_t sinkhorn_most_bytes = 48 * 1024;  ///< of shared memory

/// Shared memory of a group of S tokens.
template <class T>
constexpr std::size_t sinkhorn_shared_bytes(Index group, Index experts) {
  const Index chunks = sinkhorn_chunks(group);
  return static_cast<std::size_t>(group + 2 * experts + 2 * chunks * experts) * sizeof(T) +
         static_cast<std::size_t>(chunks) * sizeof(std::int32_t);
}

/// A group's problem, its arrays in shared memory.
template <class B>
class SinkhornBlock {
  using T = typename B::Scalar;
  static constexpr int lanes = static_cast<int>(sinkhorn_strip);  // of a token
  static constexpr int teams = warp_size / lanes;                 // tokens of a warp

 public:
  MOXIE_DEVICE SinkhornBlock(ConstIntVector<B> mask, Matrix<B> plan, Index group, T* shared)
      : mask_(mask ? mask.data + Index{blockIdx.x} * group : nullptr),
        z_(plan.middle(Index{blockIdx.x} * group, group)),
        tokens_(static_cast<int>(group)),
        experts_(static_cast<int>(plan.cols)),
        chunks_(static_cast<int>(sinkhorn_chunks(group))),
        shared_(shared) {}

  /// SinkhornCenter.
  MOXIE_DEVICE void center(ConstMatrix<B> logits, T epsilon) {
    const T scale = T(1) / epsilon;
    for (int first = warp_id() * teams; first < tokens_; first += block_warps() * teams) {
      const int t = first + lane_id() / lanes;
      const bool used = t < tokens_ && takes_part(t);
      const T* from = used ? logits.row(Index{blockIdx.x} * tokens_ + t) : nullptr;
      T peak = math::lowest<T>();
      if (used)
        for (int e = lane_id() % lanes; e < experts_; e += lanes)
          peak = math::maximum(peak, from[e]);
      peak = team_maximum(peak);
      if (used)
        for (int e = lane_id() % lanes; e < experts_; e += lanes)
          z_(t, e) = (from[e] - peak) * scale;
      if (t < tokens_ && lane_id() % lanes == 0) of_token()[t] = used ? peak : T(0);
    }
    for (int e = thread(); e < experts_; e += threads()) of_expert()[e] = 0;
    __syncthreads();
  }
  /// SinkhornChunkTop and SinkhornGroup: the largest logit, and the tokens that take part.
  MOXIE_DEVICE void sum_up(T& top, int& used_tokens) {
    for (int i = thread(); i < chunks_; i += threads()) {
      T largest = math::lowest<T>();
      int used = 0;
      for (int t = first_of(i); t < last_of(i); ++t) {
        if (!takes_part(t)) continue;
        largest = math::maximum(largest, of_token()[t]);
        ++used;
      }
      peaks()[i] = largest;
      counts()[i] = used;
    }
    __syncthreads();
    top = math::lowest<T>();
    used_tokens = 0;
    for (int i = 0; i < chunks_; ++i) {
      top = math::maximum(top, peaks()[i]);
      used_tokens += counts()[i];
    }
    __syncthreads();
  }
  /// SinkhornStart.
  MOXIE_DEVICE void start(T top, T epsilon) {
    for (int t = thread(); t < tokens_; t += threads())
      if (takes_part(t)) of_token()[t] = (of_token()[t] - top) / epsilon;
    __syncthreads();
  }
  /// SinkhornColumns and SinkhornExpert: what the experts' update makes of the potentials.
  MOXIE_DEVICE void update_experts(T target) {
    for (int task = thread(); task < chunks_ * experts_; task += threads()) {
      const int i = task / experts_;
      const int e = task % experts_;
      T peak = math::lowest<T>();
      T sum = 0;
      for (int t = first_of(i); t < last_of(i); ++t)
        if (takes_part(t)) peak = math::maximum(peak, z_(t, e) + of_token()[t]);
      for (int t = first_of(i); t < last_of(i); ++t)
        if (takes_part(t)) sum += math::exp(z_(t, e) + of_token()[t] - peak);
      peaks()[task] = peak;
      sums()[task] = sum;
    }
    __syncthreads();
    for (int e = thread(); e < experts_; e += threads()) {
      T peak = peaks()[e];
      for (int i = 1; i < chunks_; ++i) peak = math::maximum(peak, peaks()[i * experts_ + e]);
      T sum = 0;
      for (int i = 0; i < chunks_; ++i)
        if (counts()[i] > 0)
          sum += sums()[i * experts_ + e] * math::exp(peaks()[i * experts_ + e] - peak);
      of_expert_next()[e] = target - (peak + math::log(sum));
    }
    __syncthreads();
  }
  /// SinkhornSettle: how far the sums over tokens are from their targets.
  MOXIE_DEVICE T error() const {
    T worst = 0;
    for (int e = lane_id(); e < experts_; e += warp_size) {
      const T ratio = math::exp(of_expert()[e] - of_expert_next()[e]);
      worst = math::maximum(worst, math::abs(ratio - T(1)));
    }
    return warp_maximum(worst);
  }
  MOXIE_DEVICE void take_next() {
    __syncthreads();  // the error is read from both
    for (int e = thread(); e < experts_; e += threads()) of_expert()[e] = of_expert_next()[e];
    __syncthreads();
  }
  /// SinkhornToken.
  MOXIE_DEVICE void update_tokens() {
    for (int first = warp_id() * teams; first < tokens_; first += block_warps() * teams) {
      const int t = first + lane_id() / lanes;
      const bool used = t < tokens_ && takes_part(t);
      const bool writes = used && lane_id() % lanes == 0;
      T peak = writes ? -of_token()[t] : T(0);  // read by who writes it: a shuffle orders no memory
      peak = __shfl_sync(whole_warp, peak, 0, lanes);
      T sum = team_sum_of_exp(used, t, peak);
      const bool empty = used && !(sum > T(1e-30));
      if (__any_sync(whole_warp, empty)) {
        T largest = math::lowest<T>();
        if (used)
          for (int e = lane_id() % lanes; e < experts_; e += lanes)
            largest = math::maximum(largest, z_(t, e) + of_expert()[e]);
        largest = team_maximum(largest);
        const T other = team_sum_of_exp(used, t, largest);
        if (empty) {
          peak = largest;
          sum = other;
        }
      }
      if (writes) of_token()[t] = -(peak + math::log(sum));
    }
    __syncthreads();
  }
  /// SinkhornPlan.
  MOXIE_DEVICE void write_plan() {
    for (int i = thread(); i < tokens_ * experts_; i += threads()) {
      const int t = i / experts_;
      const int e = i % experts_;
      z_(t, e) = takes_part(t) ? math::exp(z_(t, e) + of_token()[t] + of_expert()[e]) : T(0);
    }
  }

 private:
  MOXIE_DEVICE static int thread() { return static_cast<int>(threadIdx.x); }
  MOXIE_DEVICE static int threads() { return static_cast<int>(blockDim.x); }
  MOXIE_DEVICE bool takes_part(int t) const { return mask_ == nullptr || mask_[t] != 0; }
  MOXIE_DEVICE int first_of(int chunk) const { return chunk * static_cast<int>(sinkhorn_rows); }
  MOXIE_DEVICE int last_of(int chunk) const {
    const int last = first_of(chunk + 1);
    return last < tokens_ ? last : tokens_;
  }
  MOXIE_DEVICE static T team_maximum(T value) {
    for (int step = lanes / 2; step > 0; step /= 2)
      value = math::maximum(value, __shfl_xor_sync(whole_warp, value, step));
    return value;
  }
  /// sum_of_exp over the experts of token t, by the lanes of its team.
  MOXIE_DEVICE T team_sum_of_exp(bool used, int t, T peak) const {
    T sum = 0;
    if (used)
      for (int e = lane_id() % lanes; e < experts_; e += lanes)
        sum += math::exp(z_(t, e) + of_expert()[e] - peak);
    for (int step = lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(whole_warp, sum, step);
    return sum;
  }

  // Pointers are made where they are used: kept, they would take most of the registers.
  MOXIE_DEVICE T* of_token() const { return shared_; }                       // [S]
  MOXIE_DEVICE T* of_expert() const { return shared_ + tokens_; }            // [E]
  MOXIE_DEVICE T* of_expert_next() const { return of_expert() + experts_; }  // [E]
  MOXIE_DEVICE T* peaks() const { return of_expert_next() + experts_; }      // [chunks, E]
  MOXIE_DEVICE T* sums() const { return peaks() + chunks_ * experts_; }      // [chunks, E]
  MOXIE_DEVICE std::int32_t* counts() const {                                // [chunks]
    return reinterpret_cast<std::int32_t*>(sums() + chunks_ * experts_);
  }

  const std::int32_t* mask_;
  Matrix<B> z_;
  int tokens_, experts_, chunks_;
  T* shared_;
};

/// Sinkhorn::generic for the group of each block.
template <class B>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(sinkhorn_threads, 2)
    sinkhorn_groups(ConstMatrix<B> logits, ConstIntVector<B> mask, SinkhornOptions options,
                    Matrix<B> plan) {
  using T = typename B::Scalar;
  MOXIE_DYNAMIC_SHARED(T, shared);
  SinkhornBlock<B> block(mask, plan, options.group, shared);
  const T epsilon = static_cast<T>(options.epsilon);
  block.center(logits, epsilon);
  T top = 0;
  int count = 0;
  block.sum_up(top, count);
  block.start(top, epsilon);
  if (count > 0) {
    const T target = math::log(static_cast<T>(count) / static_cast<T>(plan.cols));
    for (Index i = 0; i < options.iterations; ++i) {
      block.update_experts(target);
      if (i > 0 && options.tolerance > 0 && block.error() <= static_cast<T>(options.tolerance))
        break;
      block.take_next();
      block.update_tokens();
    }
  }
  block.write_plan();
}

}  // namespace moxie::detail::device

#endif
