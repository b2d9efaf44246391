// Softmax token choice under a capacity that drops, or that gives overflow the next choice.
#include "conformance/kinds/kind.hpp"
#include "conformance/kinds/lists.hpp"
#include "moxie/capacity/dropped.hpp"
#include "moxie/router/top_k.hpp"

namespace moxie::conformance {
namespace {

template <Backend B>
void rank_gates(const SparseFixture<B>& f, const Json& inputs, Ranking& ranking) {
  ranking.rows(f.probs(), f.shape().experts);
  if (inputs["priority"] == "bpr") ranking.row_maxima(f.probs(), f.shape().experts);
}

struct TokenChoice {
  template <Backend B>
  static Json run(const Json& inputs, Ranking& ranking) {
    const auto capacity = inputs.at("capacity").get<Index>();
    const TopKRouter router{.k = inputs.at("k").get<Index>()};
    Routed<B, TopKRouter> routed(router, inputs.at("logits"), capacity);
    SparseFixture<B>& f = routed.f;
    router.route(routed.backend, f.context, f.routing);
    const CasePriority<B> priority(routed.backend, inputs);
    f.assign(case_capacity(priority, capacity));
    rank_gates(f, inputs, ranking);

    Json out{{"gates", nested(f.probs(), {f.shape().tokens, f.shape().experts})}};
    add_choices(f.routing, routed.backend, out);
    add_counts(f.routing, routed.backend, out);
    out["combine"] = combine_tensor(f.routing, routed.backend, capacity);
    return out;
  }
};

struct NextChoiceRetries {
  template <Backend B>
  static Json run(const Json& inputs, Ranking& ranking) {
    const auto capacity = inputs.at("capacity").get<Index>();
    const TopKRouter router{.k = inputs.at("k").get<Index>()};
    Routed<B, TopKRouter> routed(router, inputs.at("logits"), capacity);
    SparseFixture<B>& f = routed.f;
    router.route(routed.backend, f.context, f.routing);
    const CasePriority<B> priority(routed.backend, inputs);
    rank_gates(f, inputs, ranking);

    f.assign(case_capacity(priority, capacity));
    std::vector<bool> without_retry(at(f.shape().tokens), true);
    for (const DroppedChoice& d : dropped(routed.backend, f.routing))
      without_retry[at(d.token)] = false;

    f.assign(WithOverflow{NextChoice{}, case_capacity(priority, capacity)});
    const auto choice = f.choices();
    const auto slot = f.slots();
    const auto row = f.rows();
    Json assigned = Json::array();
    for (Index t = 0; t < f.shape().tokens; ++t) {
      Json seats = Json::array();
      for (Index a = t * router.k; a < (t + 1) * router.k; ++a)
        if (row[at(a)] >= 0) seats.push_back({choice[at(a)], slot[at(a)]});
      assigned.push_back(std::move(seats));
    }
    return {{"assigned", std::move(assigned)}, {"without_retry", list(without_retry)}};
  }
};

}  // namespace

std::vector<Kind> token_choice_kinds() {
  return {make_kind<TokenChoice>("02_token_choice_first"),
          make_kind<TokenChoice>("03_token_choice_bpr"),
          make_kind<TokenChoice>("04_token_choice_random"),
          make_kind<NextChoiceRetries>("05_token_choice_next")};
}

}  // namespace moxie::conformance
