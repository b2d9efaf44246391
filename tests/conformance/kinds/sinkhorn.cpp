// Routers that rank by an entropy-regularized transport plan, and its gradient.
#include "conformance/kinds/kind.hpp"
#include "conformance/kinds/lists.hpp"
#include "moxie/router/sinkhorn_expert_choice.hpp"
#include "moxie/router/sinkhorn_top_k.hpp"

namespace moxie::conformance {
namespace {

struct SinkhornTokenChoice {
  template <Backend B>
  static Json run(const Json& inputs, Ranking& ranking) {
    const auto capacity = inputs.at("capacity").get<Index>();
    SinkhornTopKRouter router{.k = inputs.at("k").get<Index>(),
                              .iterations = inputs.at("iters").get<Index>()};
    Routed<B, SinkhornTopKRouter> routed(router, inputs.at("logits"), capacity);
    SparseFixture<B>& f = routed.f;
    B& b = routed.backend;
    const Index tokens = f.shape().tokens;
    const Index experts = f.shape().experts;
    router.route(b, f.context, f.routing);
    const CasePriority<B> priority(b, inputs);
    f.assign(case_capacity(priority, capacity));
    const auto plan = f.plan();
    ranking.rows(plan, experts);
    if (inputs["priority"] == "bpr") ranking.row_maxima(plan, experts);

    std::vector<double> row_sums(at(tokens));
    for (std::size_t i = 0; i < plan.size(); ++i)
      row_sums[i / at(experts)] += static_cast<double>(plan[i]);
    Json out{{"plan", nested(plan, {tokens, experts})},
             {"row_sums", list(row_sums)},
             {"column_sums", list(column_sums(plan, experts))}};
    add_choices(f.routing, b, out);
    out["combine"] = combine_tensor(f.routing, b, capacity);
    router.iterations = 1;
    router.score(b, f.context, f.routing);
    out["plan_1_iter"] = nested(f.plan(), {tokens, experts});
    return out;
  }
};

struct SinkhornExpertChoice {
  template <Backend B>
  static Json run(const Json& inputs, Ranking& ranking) {
    const auto capacity = inputs.at("capacity").get<Index>();
    const SinkhornExpertChoiceRouter router{.iterations = inputs.at("iters").get<Index>()};
    Routed<B, SinkhornExpertChoiceRouter> routed(router, inputs.at("logits"), capacity);
    SparseFixture<B>& f = routed.f;
    router.route(routed.backend, f.context, f.routing);
    const Index tokens = f.shape().tokens;
    ranking.columns(f.plan(), f.shape().experts);
    return {{"plan", nested(f.plan(), {tokens, f.shape().experts})},
            {"token", chosen_tokens(f.routing, routed.backend)},
            {"combine", combine_tensor(f.routing, routed.backend, least(capacity, tokens))}};
  }
};

/// A loss that is linear in the plan of a router which combines by it.
struct SinkhornGradient {
  template <Backend B>
  static Json run(const Json& inputs, Ranking&) {
    const Json& sim = inputs.at("sim");
    const Index tokens = length(sim);
    const Index experts = columns(sim);
    // Every expert is chosen, so the weights are the plan, in the order of their size.
    const SinkhornTopKRouter router{
        .k = experts, .iterations = 2000, .combine_source = CombineSource::plan};
    Routed<B, SinkhornTopKRouter> routed(router, sim, tokens);
    SparseFixture<B>& f = routed.f;
    router.route(routed.backend, f.context, f.routing);
    const auto r = flat<double>(inputs.at("r"));
    const auto choice = f.choices();
    std::vector<double> d_weight;
    for (std::size_t a = 0; a < choice.size(); ++a)
      d_weight.push_back(r.at(a / at(experts) * at(experts) + at(choice[a])));
    upload(routed.backend, Vector<B>(f.gradients.weight.data, f.gradients.weight.size()), d_weight);
    router.route_backward(routed.backend, f.context, f.routing, f.gradients);
    return {{"plan", nested(f.plan(), {tokens, experts})},
            {"grad", nested(f.d_logits(), {tokens, experts})}};
  }
};

}  // namespace

std::vector<Kind> sinkhorn_kinds() {
  return {make_kind<SinkhornTokenChoice>("08_sinkhorn_token_choice", iterated),
          make_kind<SinkhornExpertChoice>("09_sinkhorn_expert_choice", iterated),
          make_kind<SinkhornGradient>("23_sinkhorn_gradient", iterated)};
}

}  // namespace moxie::conformance
