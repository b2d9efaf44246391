// A whole layer of softmax token choice, forward and backward.
#include "moxie/layer/moe_layer.hpp"

#include "conformance/kinds/kind.hpp"
#include "conformance/kinds/layers.hpp"
#include "conformance/kinds/lists.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/given_noise.hpp"

namespace moxie::conformance {
namespace {

struct TokenChoiceLayer {
  template <Backend B>
  static Json run(const Json& inputs, Ranking& ranking) {
    const Json& experts = inputs.at("experts");
    B b;
    const Table<B> x = table(b, inputs.at("x"));
    const Table<B> r = table(b, inputs.at("r"));
    const Index tokens = x.view().rows;
    const Index width = x.view().cols;
    const Index count = length(experts);
    const Index hidden = length(experts.at(0).at("b1"));
    const Index output = length(experts[0].at("b2"));
    const Table<B> noise =
        given(inputs, "noise") ? table(b, inputs["noise"]) : Table<B>(b, tokens, count);
    const CasePriority<B> priority(b, inputs);
    const MoeLayer layer{b, MoeShape{.width = width, .experts = count},
                         WithNoise{testing::GivenNoise<B>{.noise = noise.read()},
                                   TopKRouter{.k = inputs.at("k").get<Index>()}},
                         case_capacity(priority, inputs.at("capacity").get<Index>()),
                         FeedForward<Gelu>{.hidden = hidden, .output = output}};
    Parameters<B>& p = layer.parameters();
    set(p, "Router/kernel", flat<double>(inputs.at("wr")));
    set_experts(p, experts);

    const Table<B> y(b, tokens, output);
    const Table<B> dx(b, tokens, width);
    auto tape = layer.make_tape(tokens);
    layer.forward(x.read(), y.view(), tape);
    const auto gates = host(b, tape->routing.noisy_probs);
    ranking.rows(gates, count);
    if (inputs["priority"] == "bpr") ranking.row_maxima(gates, count);
    Json out{{"gates", nested(gates, {tokens, count})}, {"y", y.json()}};
    add_choices(tape->routing, b, out);
    add_counts(tape->routing, b, out);

    p.zero_gradients();
    layer.backward(r.read(), dx.view(), tape);
    out["dx"] = dx.json();
    out["dwr"] = nested(gradient(p, "Router/kernel"), {width, count});
    out["dlogits"] = nested(host(b, tape->d.logits.top(tokens)), {tokens, count});
    const Json parts{{"w1", nested(gradient(p, "Mlp/Dense_0/kernel"), {count, width, hidden})},
                     {"b1", nested(gradient(p, "Mlp/Dense_0/bias"), {count, hidden})},
                     {"w2", nested(gradient(p, "Mlp/Dense_1/kernel"), {count, hidden, output})},
                     {"b2", nested(gradient(p, "Mlp/Dense_1/bias"), {count, output})}};
    for (Index e = 0; e < count; ++e)
      for (const auto& [part, name] : expert_parts)
        out["dexperts"][at(e)][part] = parts[part][at(e)];
    return out;
  }
};

}  // namespace

std::vector<Kind> layer_kinds() {
  return {make_kind<TokenChoiceLayer>("13_layer_forward_backward")};
}

}  // namespace moxie::conformance
