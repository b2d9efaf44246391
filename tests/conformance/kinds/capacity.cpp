// Capacity rules and the layout of assignments without one.
#include "conformance/kinds/kind.hpp"
#include "conformance/kinds/lists.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/capacity/padded_offsets.hpp"
#include "moxie/router/top_k.hpp"

namespace moxie::conformance {
namespace {

struct CapacityRules {
  template <Backend B>
  static Json run(const Json& inputs, Ranking&) {
    std::vector<Index> capacity;
    for (const Json& row : inputs.at("rows")) {
      const Index multiple = row.at(4).is_null() ? 0 : row[4].get<Index>();
      const AnyCapacity rule = make_capacity(row.at(3).get<std::string>(), row.at(2).get<double>(),
                                             multiple > 0 ? multiple : 1);
      capacity.push_back(
          rule.slots({.tokens = row.at(0).get<Index>(), .experts = row.at(1).get<Index>()}));
    }
    return {{"capacity", list(capacity)}};
  }
};

/// Without a limit, K choices of S tokens are laid out as one choice of S * K tokens.
struct DroplessLayout {
  template <Backend B>
  static Json run(const Json& inputs, Ranking& ranking) {
    const Json& logits = inputs.at("logits");
    const TopKRouter router{.k = inputs.at("k").get<Index>()};
    Routed<B, TopKRouter> chosen(router, logits, length(logits));
    B& b = chosen.backend;
    router.route(b, chosen.f.context, chosen.f.routing);
    const Index experts = chosen.f.shape().experts;
    ranking.rows(flat<double>(logits), experts);

    SparseFixture<B> layout(
        b, {.tokens = length(logits) * router.k, .experts = experts, .choices = 1});
    layout.set_choices(chosen.f.choices());
    layout.assign(Dropless{});
    const std::vector<std::int32_t> offsets = layout.offsets();
    std::vector<std::int32_t> counts;
    for (std::size_t e = 0; e + 1 < offsets.size(); ++e)
      counts.push_back(offsets[e + 1] - offsets[e]);
    const Buffer<B, std::int32_t> padded(b, experts + 1);
    pad_offsets(b, ConstIntVector<B>(layout.routing.offset), inputs.at("block").get<Index>(),
                padded.view());
    return {{"expert", nested(chosen.f.choices(), {length(logits), router.k})},
            {"perm", list(layout.assignments())},
            {"counts", list(counts)},
            {"offsets", list(offsets)},
            {"padded_offsets", list(host(b, padded.view()))}};
  }
};

}  // namespace

std::vector<Kind> capacity_kinds() {
  return {make_kind<CapacityRules>("01_capacity"), make_kind<DroplessLayout>("06_dropless")};
}

}  // namespace moxie::conformance
