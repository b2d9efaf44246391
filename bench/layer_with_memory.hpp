#pragma once

#include <utility>
#include <vector>

#include "layer_input.hpp"
#include "moxie/layer/any_layer.hpp"
#include "moxie/layer/tape.hpp"

namespace bench {

/// A layer with its tape, input and gradients.
struct LayerWithMemory {
  moxie::Scope<B> scope;
  moxie::AnyLayer<B> layer;
  moxie::OwnedTape<moxie::AnyLayer<B>> tape;
  Index tokens;
  std::vector<float> x, y, dy, dx;

  /// The layer was made in `place`.
  LayerWithMemory(moxie::Scope<B> place, moxie::AnyLayer<B> made, std::vector<float> input)
      : scope(std::move(place)),
        layer(std::move(made)),
        tape((scope.parameters->initialize(1), layer),
             static_cast<Index>(input.size()) / layer.input_width(), moxie::Gradients::all),
        tokens(static_cast<Index>(input.size()) / layer.input_width()),
        x(std::move(input)),
        y(static_cast<std::size_t>(tokens * layer.output_width())),
        dy(normal_numbers(static_cast<Index>(y.size()), 6)),
        dx(x.size()) {}

  moxie::ConstMatrix<B> input() const { return {x.data(), tokens, layer.input_width()}; }
  moxie::Matrix<B> d_input() { return {dx.data(), tokens, layer.input_width()}; }
  void forward(const moxie::Pass<B>& pass = {}) {
    layer.forward(input(), {y.data(), tokens, layer.output_width()}, tape, pass);
  }
  void backward() { layer.backward({dy.data(), tokens, layer.output_width()}, d_input(), tape); }
  void run(bool and_backward) {
    forward();
    if (and_backward) backward();
  }
};

}  // namespace bench
