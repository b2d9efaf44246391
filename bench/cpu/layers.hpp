#pragma once

#include <string_view>
#include <vector>

#include "../layer_with_memory.hpp"
#include "bench_run.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/nn/mlp.hpp"
#include "moxie/router/top_k.hpp"

namespace bench {

struct LayerShape {
  Index tokens, experts, choices, width, hidden;

  /// Of a forward's products, the gate among them; a backward does twice as many.
  double flops() const {
    return static_cast<double>(tokens) * static_cast<double>(width) *
           (2.0 * static_cast<double>(experts) +
            4.0 * static_cast<double>(choices) * static_cast<double>(hidden));
  }
};

/// Softmax token choice without drops, perceptrons with GELU; tokens whose logits are drawn from a distribution.
inline LayerWithMemory make_moe_layer(B& backend, const LayerShape& s,
                                      std::string_view distribution = "uniform") {
  moxie::Scope<B> scope = moxie::root(backend);
  moxie::MoeLayer layer{scope, moxie::MoeShape{.width = s.width, .experts = s.experts},
                        moxie::TopKRouter{.k = s.choices}, moxie::Dropless{},
                        moxie::FeedForward<moxie::Gelu>{.hidden = s.hidden}};
  LayerWithMemory made(
      scope, layer,
      make_input(drawn_logits(distribution, s.tokens, s.experts), s.experts, s.width));
  set_gates(*scope.parameters, s.experts);
  return made;
}
/// The dense network of equal active FLOPs: one perceptron of hidden width K H.
inline LayerWithMemory make_dense_layer(B& backend, const LayerShape& s) {
  moxie::Scope<B> scope = moxie::root(backend);
  return {scope, moxie::Mlp<B>(scope, s.width, s.choices * s.hidden, s.width),
          normal_numbers(s.tokens * s.width, 2)};
}

inline Candidate forward_of(std::string name, Workers& on, LayerWithMemory& layer, double flops) {
  return {std::move(name),
          on,
          {[&layer] { layer.forward(); }},
          flops,
          static_cast<double>(layer.tokens)};
}
/// The backward alone; the forward before it is not timed.
inline Candidate backward_of(std::string name, Workers& on, LayerWithMemory& layer, double flops) {
  return {std::move(name),
          on,
          {[&layer] { layer.backward(); }, [&layer] { layer.forward(); }},
          2 * flops,
          static_cast<double>(layer.tokens)};
}
inline Candidate both_of(std::string name, Workers& on, LayerWithMemory& layer, double flops) {
  return {std::move(name),
          on,
          {[&layer] { layer.run(true); }},
          3 * flops,
          static_cast<double>(layer.tokens)};
}

}  // namespace bench
