#pragma once

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "device/allocations.hpp"
#include "moxie/dispatch/einsum.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/regularizer/noisy_load.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/runtime/any_capacity.hpp"
#include "moxie/testing/given_noise.hpp"
#include "moxie/testing/law_report.hpp"
#include "support/backends.hpp"
#include "support/errors.hpp"
#include "support/numbers.hpp"
#include "support/parameters.hpp"

/// One layer type for most tests: what varies is chosen at run time, since a MoeLayer takes seconds
/// to compile.
namespace moxie::test {

/// Drawn, or given where there is a matrix.
template <class B>
struct AnyNoise {
  GaussianNoise drawn{.std = 0};
  testing::GivenNoise<B> given{};

  double add(B& b, const Context<B>& ctx, ConstMatrix<B> in, Matrix<B> out) const {
    return given.noise ? given.add(b, ctx, in, out) : drawn.add(b, ctx, in, out);
  }
};
using Slots = WithPriority<AnyPriority, AnyCapacity>;
template <class B>
using Moe = MoeLayer<B, WithNoise<AnyNoise<B>, TopKRouter>, Slots, FeedForward<Gelu>, Importance,
                     NoisyLoad>;
/// The same by the dense tensors of the definition, and with a router that never has noise.
template <class B>
using DenseMoe = MoeLayer<B, WithDispatcher<EinsumDispatcher, TopKRouter>,
                          TrainEval<Slots, AnyCapacity>, FeedForward<Gelu>, Importance>;

template <class B>
struct Config {
  Index width = 5, experts = 4, group = 0, hidden = 6, output = 0;
  TopKRouter router{.k = 2};
  AnyNoise<B> noise{};
  std::string_view priority = "first";
  AnyCapacity capacity = Dropless{};
  double importance = 0, load = 0;
};

template <class B>
Moe<B> make_moe(B& backend, const Config<B>& c) {
  return {backend,
          MoeShape{.width = c.width, .experts = c.experts, .group = c.group, .seed = 7},
          WithNoise{c.noise, c.router},
          Slots{make_priority(c.priority), c.capacity},
          FeedForward<Gelu>{.hidden = c.hidden, .output = c.output},
          Importance{.weight = c.importance},
          NoisyLoad{.weight = c.load}};
}
template <class B>
DenseMoe<B> make_dense(B& backend, const Config<B>& c, const AnyCapacity& eval) {
  return {backend,
          MoeShape{.width = c.width, .experts = c.experts, .group = c.group, .seed = 7},
          WithDispatcher{EinsumDispatcher{}, c.router},
          TrainEval{Slots{make_priority(c.priority), c.capacity}, eval},
          FeedForward<Gelu>{.hidden = c.hidden, .output = c.output},
          Importance{.weight = c.importance}};
}

/// Everything one forward and backward give.
template <class T>
struct Passed {
  std::vector<T> y, dx, gradients, weight;
  std::vector<std::int32_t> choice, row;
  bool operator==(const Passed&) const = default;
};

/// A pass along routes from outside, which must outlive it.
template <class B>
Pass<B> along(const Routes<B>& routes, Mode mode = Mode::train) {
  return Pass<B>{.mode = mode}.with(std::span(&routes, 1));
}

/// A layer with a tape and memory for one pass at a time.
template <class L>
class Runner {
 public:
  using B = typename L::BackendType;
  using T = typename B::Scalar;

  Runner(const L& layer, Index tokens, Gradients gradients = Gradients::all)
      : layer_(&layer),
        tape_(layer.make_tape(tokens, gradients)),
        x_(backend(), tokens * layer.input_width(), T(0)),
        y_(backend(), tokens * layer.output_width(), T(99)),
        dy_(backend(), tokens * layer.output_width(), T(0)),
        dx_(backend(), tokens * layer.input_width(), T(99)) {}

  typename L::Tape& tape() { return tape_; }
  std::vector<T> forward(const std::vector<double>& x, const Pass<B>& pass = {}) {
    tokens_ = static_cast<Index>(x.size()) / layer_->input_width();
    testing::detail::from_host(backend(), x_.view(), x);
    layer_->forward(ConstMatrix<B>(x_.view(tokens_, layer_->input_width())),
                    y_.view(tokens_, layer_->output_width()), tape_, pass);
    return testing::detail::to_host(backend(), y_.view(tokens_, layer_->output_width()));
  }
  /// Gradients of the parameters start at 0.
  Passed<T> backward(const std::vector<double>& dy) {
    Parameters<B>& p = layer_->parameters();
    p.zero_gradients();
    testing::detail::from_host(backend(), dy_.view(), dy);
    layer_->backward(ConstMatrix<B>(dy_.view(tokens_, layer_->output_width())),
                     dx_.view(tokens_, layer_->input_width()), tape_);
    const auto& r = tape_->routing;
    using testing::detail::to_host;
    return {to_host(backend(), y_.view(tokens_, layer_->output_width())),
            to_host(backend(), dx_.view(tokens_, layer_->input_width())),
            to_host(backend(), p.gradients()),
            to_host(backend(), r.weight),
            to_host(backend(), r.choice),
            to_host(backend(), r.row)};
  }
  Passed<T> run(const std::vector<double>& x, const std::vector<double>& dy,
                const Pass<B>& pass = {}) {
    forward(x, pass);
    return backward(dy);
  }

 private:
  B& backend() const { return layer_->parameters().backend(); }

  const L* layer_;
  OwnedTape<L> tape_;
  Buffer<T, B> x_, y_, dy_, dx_;
  Index tokens_ = 0;
};

template <class T>
std::vector<T> rows_of(const std::vector<T>& m, Index cols, Index first, Index rows) {
  return {m.begin() + first * cols, m.begin() + (first + rows) * cols};
}

}  // namespace moxie::test
