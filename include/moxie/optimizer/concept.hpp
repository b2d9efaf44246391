#pragma once

#include <concepts>
#include <cstdint>
#include <string_view>
#include <vector>

#include "moxie/core/parameters.hpp"

/// An Optimizer turns the gradients of a range of parameters into new values: Sgd, AdamW.
///
/// A policy is a plain struct of hyper-parameters. What it keeps between steps is a `State<B>`, which
/// lives with the caller and is made for one model.
///
/// Members:
///   State<B>(const Optimizer&, const Parameters<B>&)   flat moments, laid out like the gradients
///     std::vector<Moment<B>> moments() const           all of them, named, for checkpoints
///     std::uint64_t step() const                       updates so far
///     void restore_step(std::uint64_t)
///   void update(Parameters<B>&, const ParameterRange&, State<B>&, double learning_rate) const
///
/// Laws:
///  * `update` changes values and moments of the range and no bit elsewhere, reads gradients only,
///    raises the parameters' version, never allocates and does not block: one flat pass for each
///    run of equal decay;
///  * it depends on (values, gradients, moments, step, learning rate) only, so a state whose
///    moments and step are restored goes on bit for bit;
///  * a state counts its updates, so a range that is trained on its own has its own;
///  * a state of another model or a range outside it is a shape_error, a learning rate below 0 or
///    NaN a config_error, before anything is written.
namespace moxie {

/// One flat vector of an optimizer's state; its name stays valid as long as the program.
template <Backend B>
struct Moment {
  std::string_view name;
  Vector<B> values;
};

namespace detail {
template <class O, class B>
concept HasOptimizerState = requires {
  typename O::template State<B>;
}
&&std::constructible_from<typename O::template State<B>, const O&, const Parameters<B>&>&& requires(
    const typename O::template State<B>& state, typename O::template State<B>& writable,
    std::uint64_t step) {
  { state.moments() } -> std::same_as<std::vector<Moment<B>>>;
  { state.step() } -> std::same_as<std::uint64_t>;
  writable.restore_step(step);
};
template <class O, class B>
concept HasUpdate = requires(const O& optimizer, Parameters<B>& parameters,
                             const ParameterRange& range, typename O::template State<B>& state,
                             double learning_rate) {
  optimizer.update(parameters, range, state, learning_rate);
};

/// The checks every optimizer makes before it writes. `who` is its name.
template <Backend B>
void check_update(const char* who, const Parameters<B>& parameters, const ParameterRange& range,
                  Index state_size, double learning_rate) {
  if (state_size != parameters.size())
    throw_shape(who, "::update: the state was made for ", state_size, " parameters, the model has ",
                parameters.size());
  for (const ParameterRange::Run& run : {range.shared, range.experts})
    if (run.first < 0 || run.size < 0 || run.first > parameters.size() - run.size)
      throw_shape(who, "::update: the range [", run.first, ", ", run.first + run.size,
                  ") is outside the model's ", parameters.size(), " parameters");
  if (!(learning_rate >= 0))
    throw_config(who, "::update: learning_rate must be >= 0, got ", learning_rate);
}
}  // namespace detail

template <class O, class B>
concept Optimizer = Backend<B> && std::copyable<O> && std::equality_comparable<O> &&
    detail::HasOptimizerState<O, B> && detail::HasUpdate<O, B>;

}  // namespace moxie
