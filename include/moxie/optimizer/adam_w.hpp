#pragma once

#include <cmath>
#include <concepts>

#include "moxie/ops/adam_w.hpp"
#include "moxie/optimizer/concept.hpp"
#include "moxie/optimizer/decay.hpp"

namespace moxie {

/// Adam with decoupled weight decay: p -= learning_rate (m-hat / (sqrt(v-hat) + epsilon) + decay
/// p), the moments corrected for their start at zero. The decay of V-MoE trained from scratch is
/// the default.
/// Errors: config_error for a beta outside [0, 1) or an epsilon that is not positive (in float: below 1e-12), when a state
/// is made.
/// Cost: 2 scalars of state a parameter.
/// Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
struct AdamW {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  Decay decay = Decay::kernels(0.1);

  template <Backend B>
  class State {
   public:
    State(const AdamW& adam, const Parameters<B>& parameters)
        : first_(parameters.backend(), parameters.size()),
          second_(parameters.backend(), parameters.size()),
          segments_(decay_segments(adam.decay, parameters)) {
      if (!(adam.beta1 >= 0 && adam.beta1 < 1) || !(adam.beta2 >= 0 && adam.beta2 < 1))
        throw_config("moxie::AdamW: beta1 and beta2 must be in [0, 1), got ", adam.beta1, " and ",
                     adam.beta2);
      if (!(adam.epsilon > 0))
        throw_config("moxie::AdamW: epsilon must be > 0, got ", adam.epsilon);
      if (std::same_as<typename B::Scalar, float> && adam.epsilon < 1e-12)
        throw_config("moxie::AdamW: epsilon must be >= 1e-12 in float, got ", adam.epsilon);
    }
    std::vector<Moment<B>> moments() const {
      return {{"first_moment", first_.view()}, {"second_moment", second_.view()}};
    }
    std::uint64_t step() const noexcept { return step_; }
    void restore_step(std::uint64_t step) noexcept { step_ = step; }

   private:
    friend AdamW;
    Buffer<B, typename B::Scalar> first_, second_;
    std::vector<DecaySegment> segments_;
    std::uint64_t step_ = 0;
  };

  template <Backend B>
  void update(Parameters<B>& parameters, const ParameterRange& range, State<B>& state,
              double learning_rate) const {
    const Vector<B> m = state.first_.view();
    const Vector<B> v = state.second_.view();
    detail::check_update("moxie::AdamW", parameters, range, m.size, learning_rate);
    const Vector<B> values = parameters.edit();
    const Vector<B> gradients = parameters.gradients();
    const auto t = static_cast<double>(++state.step_);
    using T = typename B::Scalar;
    detail::for_each_segment(state.segments_, range, [&](Index first, Index size, double rate) {
      const AdamWFactors<T> factors{.learning_rate = static_cast<T>(learning_rate),
                                    .decay = static_cast<T>(rate),
                                    .beta1 = static_cast<T>(beta1),
                                    .beta2 = static_cast<T>(beta2),
                                    .rest1 = static_cast<T>(1 - beta1),
                                    .rest2 = static_cast<T>(1 - beta2),
                                    .correction1 = static_cast<T>(1 / (1 - std::pow(beta1, t))),
                                    .correction2 = static_cast<T>(1 / (1 - std::pow(beta2, t))),
                                    .epsilon = static_cast<T>(epsilon)};
      adam_w_update(parameters.backend(), values.middle(first, size), gradients.middle(first, size),
                    m.middle(first, size), v.middle(first, size), factors);
    });
  }

  friend bool operator==(const AdamW&, const AdamW&) = default;
};

}  // namespace moxie
