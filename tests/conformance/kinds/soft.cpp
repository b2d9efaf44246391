// Soft MoE: slots that are mixtures of tokens.
#include "moxie/router/soft.hpp"

#include "conformance/kinds/kind.hpp"
#include "conformance/kinds/layers.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"

namespace moxie::conformance {
namespace {

struct SoftMoe {
  template <Backend B>
  static Json run(const Json& inputs, Ranking&) {
    const Json& experts = inputs.at("experts");
    const Json& mu = inputs.at("mu");
    const Index width = length(mu);
    const Index count = columns(mu);
    const Index slots = columns(mu[0]);
    B b;
    const MoeLayer layer{b, MoeShape{.width = width, .experts = count}, SoftRouter{},
                         FixedCapacity{slots},
                         FeedForward<Gelu>{.hidden = length(experts.at(0).at("b1")),
                                           .output = length(experts[0].at("b2"))}};
    Parameters<B>& p = layer.parameters();
    set(p, "Router/mu", flat<double>(mu));
    set(p, "Router/scale", flat<double>(inputs.at("scale")));
    set_experts(p, experts);

    const Table<B> x = table(b, inputs.at("x"));
    const Table<B> r = table(b, inputs.at("r"));
    const Index tokens = x.view().rows;
    const Table<B> y(b, tokens, layer.output_width());
    const Table<B> dx(b, tokens, width);
    auto tape = layer.make_tape(tokens);
    layer.forward(x.read(), y.view(), tape);
    p.zero_gradients();
    layer.backward(r.read(), dx.view(), tape);

    double loss = 0;
    const auto weights = r.get();
    const auto values = y.get();
    for (std::size_t i = 0; i < values.size(); ++i)
      loss += static_cast<double>(weights.at(i)) * static_cast<double>(values[i]);
    return {{"logits", nested(host(b, tape->routing.logits), {tokens, count, slots})},
            {"dispatch", nested(host(b, tape->routing.dispatch), {tokens, count, slots})},
            {"combine", nested(host(b, tape->routing.combine), {tokens, count, slots})},
            {"y", y.json()},
            {"loss", loss},
            {"dx", dx.json()},
            {"dmu", nested(gradient(p, "Router/mu"), {width, count, slots})},
            {"dscale", static_cast<double>(gradient(p, "Router/scale").at(0))}};
  }
};

}  // namespace

std::vector<Kind> soft_kinds() { return {make_kind<SoftMoe>("12_soft_moe")}; }

}  // namespace moxie::conformance
