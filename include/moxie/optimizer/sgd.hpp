#pragma once

#include "moxie/ops/sgd.hpp"
#include "moxie/optimizer/concept.hpp"
#include "moxie/optimizer/decay.hpp"

namespace moxie {

/// Stochastic gradient descent with momentum: trace = g + momentum trace, p -= learning_rate (trace
/// + decay p). Neither Nesterov nor dampening. V-MoE fine-tunes with it, without decay.
/// Errors: config_error for a momentum outside [0, 1), when a state is made.
/// Cost: 1 scalar of state a parameter.
struct Sgd {
  double momentum = 0.9;
  Decay decay = Decay::none();

  template <Backend B>
  class State {
   public:
    State(const Sgd& sgd, const Parameters<B>& parameters)
        : trace_(parameters.backend(), parameters.size()),
          segments_(decay_segments(sgd.decay, parameters)) {
      if (!(sgd.momentum >= 0 && sgd.momentum < 1))
        throw_config("moxie::Sgd: momentum must be in [0, 1), got ", sgd.momentum);
    }
    std::vector<Moment<B>> moments() const { return {{"trace", trace_.view()}}; }
    std::uint64_t step() const noexcept { return step_; }
    void restore_step(std::uint64_t step) noexcept { step_ = step; }

   private:
    friend Sgd;
    Buffer<B, typename B::Scalar> trace_;
    std::vector<DecaySegment> segments_;
    std::uint64_t step_ = 0;
  };

  template <Backend B>
  void update(Parameters<B>& parameters, const ParameterRange& range, State<B>& state,
              double learning_rate) const {
    const Vector<B> trace = state.trace_.view();
    detail::check_update("moxie::Sgd", parameters, range, trace.size, learning_rate);
    const Vector<B> values = parameters.edit();
    const Vector<B> gradients = parameters.gradients();
    ++state.step_;
    using T = typename B::Scalar;
    detail::for_each_segment(state.segments_, range, [&](Index first, Index size, double rate) {
      const SgdFactors<T> factors{.learning_rate = static_cast<T>(learning_rate),
                                  .decay = static_cast<T>(rate),
                                  .momentum = static_cast<T>(momentum)};
      sgd_update(parameters.backend(), values.middle(first, size), gradients.middle(first, size),
                 trace.middle(first, size), factors);
    });
  }

  friend bool operator==(const Sgd&, const Sgd&) = default;
};

}  // namespace moxie
