#pragma once

#include <string>
#include <utility>

#include "conformance/kinds/values.hpp"
#include "moxie/router/concept.hpp"
#include "moxie/runtime/any_capacity.hpp"
#include "moxie/testing/given_order.hpp"
#include "moxie/testing/sparse_fixture.hpp"

/// Sparse routing tensors of one group, as the vectors list them.
namespace moxie::conformance {

using testing::SparseFixture;

/// The priority of a case: by name, or the order that it gives.
template <Backend B>
class CasePriority {
 public:
  CasePriority(B& b, const Json& inputs)
      : by_name_(make_priority(inputs.at("priority").get<std::string>())) {
    if (inputs["priority"] != "random") return;
    const auto served = flat<std::int32_t>(inputs.at("perm"));
    memory_ = Buffer<B, std::int32_t>(b, static_cast<Index>(served.size()));
    upload(b, memory_.view(), served);
    given_ = true;
  }
  std::size_t bytes(const B& b, Index tokens) const { return by_name_.bytes(b, tokens); }
  void order(B& b, const Context<B>& ctx, const SparseRouting<B>& r, IntVector<B> order,
             Scratch<B> scratch) const {
    if (given_) {
      testing::GivenOrder<B>{.served = memory_.view()}.order(b, ctx, r, order, scratch);
    } else {
      by_name_.order(b, ctx, r, order, scratch);
    }
  }

 private:
  AnyPriority by_name_;
  bool given_ = false;
  Buffer<B, std::int32_t> memory_;
};
/// A priority that belongs to somebody else, as a policy that can be copied.
template <Backend B>
struct PriorityRef {
  const CasePriority<B>* priority = nullptr;

  std::size_t bytes(const B& b, Index tokens) const { return priority->bytes(b, tokens); }
  void order(B& b, const Context<B>& ctx, const SparseRouting<B>& r, IntVector<B> order,
             Scratch<B> scratch) const {
    priority->order(b, ctx, r, order, scratch);
  }
};
/// The capacity and priority of a case.
template <Backend B>
auto case_capacity(const CasePriority<B>& priority, Index capacity) {
  return WithPriority{PriorityRef<B>{&priority}, FixedCapacity{capacity}};
}

inline Index least(Index a, Index b) { return a < b ? a : b; }

/// The shape of one group routed by `router`.
template <class R>
RoutingShape shape_of(const R& router, Index tokens, Index experts, Index capacity) {
  router.check(experts);
  RoutingShape s{.tokens = tokens,
                 .experts = experts,
                 .choices = router.choices(experts),
                 .group = tokens,
                 .capacity = capacity};
  s.assignments = router.assignments(s);
  s.rows = least(s.assignments, experts * least(capacity, tokens));
  return s;
}
/// Tensors for `router` with the logits of a case.
template <Backend B, class R>
struct Routed {
  B backend{};
  SparseFixture<B> f;

  Routed(const R& router, const Json& logits, Index capacity)
      : Routed(router, logits, shape_of(router, length(logits), columns(logits), capacity)) {}

 private:
  Routed(const R& router, const Json& logits, const RoutingShape& shape)
      : f(backend, shape, routing_traits(router, backend, shape)) {
    f.set_logits(flat<double>(logits));
  }
};

/// expert, slot and kept of token choice.
template <Backend B>
void add_choices(const SparseRouting<B>& r, B& b, Json& out) {
  const auto slot = host(b, r.slot);
  std::vector<bool> kept;
  for (const std::int32_t s : slot) kept.push_back(s < r.shape.capacity);
  out["expert"] = nested(host(b, r.choice), {r.choice.rows, r.choice.cols});
  out["slot"] = nested(slot, {r.choice.rows, r.choice.cols});
  out["kept"] = nested(kept, {r.choice.rows, r.choice.cols});
}
/// kept_per_token and load of token choice: kept ones alone.
template <Backend B>
void add_counts(const SparseRouting<B>& r, B& b, Json& out) {
  const auto choice = host(b, r.choice);
  const auto row = host(b, r.row);
  std::vector<Index> of_token(at(r.shape.tokens)), load(at(r.shape.experts));
  for (std::size_t a = 0; a < row.size(); ++a) {
    if (row[a] < 0) continue;
    ++of_token[a / at(r.choice.cols)];
    ++load[at(choice[a])];
  }
  out["kept_per_token"] = list(of_token);
  out["load"] = list(load);
}
/// The dense combine tensor [S, E, slots] of token or expert choice.
template <Backend B>
Json combine_tensor(const SparseRouting<B>& r, B& b, Index slots) {
  const auto choice = host(b, r.choice);
  const auto slot = host(b, r.slot);
  const auto row = host(b, r.row);
  const auto weight = host(b, r.weight);
  const auto first = host(b, r.first);
  const Index experts = r.shape.experts;
  std::vector<double> dense(at(r.shape.tokens * experts * slots));
  for (Index t = 0; t < r.shape.tokens; ++t) {
    const Index begin = first.empty() ? t * r.choice.cols : Index{first[at(t)]};
    const Index end = first.empty() ? begin + r.choice.cols : Index{first[at(t + 1)]};
    for (Index a = begin; a < end; ++a)
      if (row[at(a)] >= 0)
        dense.at(at((t * experts + choice[at(a)]) * slots + slot[at(a)])) =
            static_cast<double>(weight[at(a)]);
  }
  return nested(dense, {r.shape.tokens, experts, slots});
}
/// token[e][c] of expert choice, the best first.
template <Backend B>
Json chosen_tokens(const SparseRouting<B>& r, B& b) {
  const auto token = host(b, r.token);
  const auto offset = host(b, r.offset);
  Json out = Json::array();
  for (Index e = 0; e < r.shape.experts; ++e)
    out.push_back(list(std::vector<std::int32_t>(token.begin() + offset[at(e)],
                                                 token.begin() + offset[at(e + 1)])));
  return out;
}

}  // namespace moxie::conformance
