// Routers that rank by a transport plan with a limited number of non-zeros.
#include "conformance/kinds/kind.hpp"
#include "conformance/kinds/lists.hpp"
#include "moxie/router/sparse_expert_choice.hpp"
#include "moxie/router/sparse_top_k.hpp"

namespace moxie::conformance {
namespace {

struct SparseExpertChoice {
  template <Backend B>
  static Json run(const Json& inputs, Ranking& ranking) {
    const auto capacity = inputs.at("capacity").get<Index>();
    SparseExpertChoiceRouter router{.learning_rate = inputs.at("lr").get<double>(),
                                    .tolerance = inputs.at("tol").get<double>()};
    Routed<B, SparseExpertChoiceRouter> routed(router, inputs.at("logits"), capacity);
    SparseFixture<B>& f = routed.f;
    const Index tokens = f.shape().tokens;
    const Index experts = f.shape().experts;
    Json out = Json::object();
    for (const auto n : flat<Index>(inputs.at("iters"))) {
      router.max_iterations = n;
      router.route(routed.backend, f.context, f.routing);
      ranking.columns(f.probs(), experts);
      ranking.columns(f.plan(), experts);
      const std::string after = "_" + std::to_string(n);
      out["plan" + after] = nested(f.plan(), {tokens, experts});
      out["token" + after] = chosen_tokens(f.routing, routed.backend);
      out["combine" + after] = combine_tensor(f.routing, routed.backend, least(capacity, tokens));
    }
    return out;
  }
};

struct SparseTokenChoice {
  template <Backend B>
  static Json run(const Json& inputs, Ranking& ranking) {
    const auto capacity = inputs.at("capacity").get<Index>();
    SparseTopKRouter router{.k = inputs.at("k").get<Index>(),
                            .learning_rate = inputs.at("lr").get<double>(),
                            .tolerance = inputs.at("tol").get<double>()};
    Routed<B, SparseTopKRouter> routed(router, inputs.at("logits"), capacity);
    SparseFixture<B>& f = routed.f;
    const Index experts = f.shape().experts;
    Json out = Json::object();
    for (const auto n : flat<Index>(inputs.at("iters"))) {
      router.max_iterations = n;
      router.route(routed.backend, f.context, f.routing);
      ranking.rows(f.probs(), experts);
      ranking.rows(f.plan(), experts);
      const std::string after = "_" + std::to_string(n);
      out["plan" + after] = nested(f.plan(), {f.shape().tokens, experts});
      out["column_sums" + after] = list(column_sums(f.plan(), experts));
    }
    const CasePriority<B> priority(routed.backend, inputs);
    if (inputs["priority"] == "bpr") ranking.row_maxima(f.plan(), experts);
    f.assign(case_capacity(priority, capacity));
    add_choices(f.routing, routed.backend, out);
    out["combine"] = combine_tensor(f.routing, routed.backend, capacity);
    return out;
  }
};

}  // namespace

std::vector<Kind> sparse_kinds() {
  return {make_kind<SparseExpertChoice>("10_sparse_expert_choice", iterated),
          make_kind<SparseTokenChoice>("11_ksparse_token_choice", iterated)};
}

}  // namespace moxie::conformance
