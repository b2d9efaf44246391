// Expert choice on scores that are given.
#include "moxie/router/expert_choice.hpp"

#include "conformance/kinds/kind.hpp"
#include "conformance/kinds/lists.hpp"

namespace moxie::conformance {
namespace {

struct ExpertChoice {
  template <Backend B>
  static Json run(const Json& inputs, Ranking& ranking) {
    const Json& scores = inputs.at("scores");
    const auto capacity = inputs.at("capacity").get<Index>();
    const ExpertChoiceRouter router{};
    Routed<B, ExpertChoiceRouter> routed(router, scores, capacity);
    SparseFixture<B>& f = routed.f;
    f.set_mode(Mode::eval);
    f.set_probs(flat<double>(scores));
    router.select(routed.backend, f.context, f.routing);
    router.weigh(routed.backend, f.context, f.routing);
    ranking.columns(flat<double>(scores), f.shape().experts);

    const auto first = host(routed.backend, f.routing.first);
    std::vector<std::int32_t> per_token;
    for (std::size_t t = 0; t + 1 < first.size(); ++t) per_token.push_back(first[t + 1] - first[t]);
    return {
        {"token", chosen_tokens(f.routing, routed.backend)},
        {"combine", combine_tensor(f.routing, routed.backend, least(capacity, f.shape().tokens))},
        {"experts_per_token", list(per_token)}};
  }
};

}  // namespace

std::vector<Kind> expert_choice_kinds() { return {make_kind<ExpertChoice>("07_expert_choice")}; }

}  // namespace moxie::conformance
