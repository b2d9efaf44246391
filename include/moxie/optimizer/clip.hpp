#pragma once

#include <cmath>

#include "moxie/core/parameters.hpp"
#include "moxie/ops/clip_to_norm.hpp"
#include "moxie/ops/norm.hpp"

namespace moxie {

/// Clips the gradients of a range by their common norm: g *= limit / |g| if |g| >= limit. The norm
/// stays in the backend's memory.
struct ClipByGlobalNorm {
  double limit = 1;

  /// Memory for gradients of one model; keeps the norm of the last call.
  template <Backend B>
  class State {
   public:
    explicit State(const Parameters<B>& parameters)
        : norm_(parameters.backend(), sizeof(double)),
          scratch_(parameters.backend(), squared_norm_bytes(parameters.size())) {}

    /// Square of the norm before clipping, in the backend's memory: [1].
    VectorView<double, typename B::Space> squared_norm() const {
      return {reinterpret_cast<double*>(norm_.data()), 1};
    }
    /// The norm before clipping of the last call. Blocks.
    double read_norm(B& backend) const {
      double squared = 0;
      backend.copy_to_host(&squared, norm_.data(), sizeof(squared));
      return std::sqrt(squared);
    }

   private:
    friend ClipByGlobalNorm;
    Memory<B> norm_;
    Memory<B> scratch_;
  };

  /// Clips the gradients of `range`; others are neither read nor written. A norm that is NaN
  /// changes nothing.
  /// Errors: config_error if `limit` is not positive; shape_error for a range outside the model.
  /// Cost: two passes, one if nothing is clipped. Does not block, does not allocate.
  template <Backend B>
  void operator()(Parameters<B>& parameters, const ParameterRange& range, State<B>& state) const {
    if (!(limit > 0)) throw_config("moxie::ClipByGlobalNorm: limit must be > 0, got ", limit);
    measure(parameters, range, state);
    for (const ParameterRange::Run& run : {range.shared, range.experts})
      clip_to_norm(parameters.backend(), parameters.gradients().middle(run.first, run.size),
                   state.squared_norm(), limit);
  }

  /// Leaves the norm in the state without clipping.
  template <Backend B>
  static void measure(Parameters<B>& parameters, const ParameterRange& range, State<B>& state) {
    const Vector<B> gradients = parameters.gradients();
    for (const ParameterRange::Run& run : {range.shared, range.experts})
      if (run.first < 0 || run.size < 0 || run.first > gradients.size - run.size)
        throw_shape("moxie::ClipByGlobalNorm: the range [", run.first, ", ", run.first + run.size,
                    ") is outside the model's ", gradients.size, " parameters");
    const Scratch<B> scratch{state.scratch_.data(), static_cast<Index>(state.scratch_.bytes())};
    squared_norm(parameters.backend(), gradients.middle(range.shared.first, range.shared.size),
                 state.squared_norm(), false, scratch);
    squared_norm(parameters.backend(), gradients.middle(range.experts.first, range.experts.size),
                 state.squared_norm(), true, scratch);
  }

  friend constexpr bool operator==(const ClipByGlobalNorm&, const ClipByGlobalNorm&) = default;
};

}  // namespace moxie
