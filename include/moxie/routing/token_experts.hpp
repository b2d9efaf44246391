#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <type_traits>
#include <vector>

#include "moxie/routing/record.hpp"

namespace moxie {

/// The experts of every token in one MoE layer, in host memory. Those of token t are entries
/// [first[t], first[t + 1]).
struct TokenExperts {
  std::vector<Index> first{0};       ///< [T + 1]
  std::vector<std::int32_t> expert;  ///< selected, each once, the best first
  std::vector<std::uint8_t> served;  ///< like `expert`: 1 if it has a slot and a weight above 0

  Index tokens() const { return static_cast<Index>(first.size()) - 1; }
  std::span<const std::int32_t> experts(Index t) const {
    const auto begin = static_cast<std::size_t>(first[static_cast<std::size_t>(t)]);
    const auto end = static_cast<std::size_t>(first[static_cast<std::size_t>(t) + 1]);
    return std::span(expert).subspan(begin, end - begin);
  }
  /// Whether entry i of `experts(t)` is served.
  bool is_served(Index t, Index i) const {
    return served[static_cast<std::size_t>(first[static_cast<std::size_t>(t)] + i)] != 0;
  }
  friend bool operator==(const TokenExperts&, const TokenExperts&) = default;
};

/// Collects the experts of all tokens: visit a model with it after a forward. Blocks. Experts are in
/// the router's order; where experts choose, by weight, and equal ones by number. A soft layer sends
/// every token to every expert: the `soft_choices` count that combine gives most, and equal ones by
/// number. Padding has none. An expert that dropped the token counts as selected, in a replay too.
template <Backend B>
class TokenExpertsReader final : public RoutingVisitor<B> {
  using T = typename B::Scalar;

 public:
  TokenExpertsReader(B& backend, Index soft_choices)
      : backend_(&backend), soft_choices_(soft_choices) {}

  std::vector<TokenExperts> layers;  ///< one for each MoE layer that was visited

  void sparse(const SparseRouting<B>& r) override {
    const auto choice = host(r.choice.data, r.choice.size());
    const auto row = host(r.row.data, r.choice.size());
    const auto weight = host(r.weight.data, r.choice.size());
    const auto begin = host(r.first.data, r.first ? r.shape.tokens + 1 : 0);
    TokenExperts& own = layers.emplace_back();
    std::vector<std::size_t> order;
    for (Index t = 0; t < r.shape.tokens; ++t) {
      const auto token = static_cast<std::size_t>(t);
      const Index from = begin.empty() ? t * r.choice.cols : begin[token];
      const Index to = begin.empty() ? from + r.choice.cols : begin[token + 1];
      order.resize(static_cast<std::size_t>(to - from));
      std::iota(order.begin(), order.end(), static_cast<std::size_t>(from));
      if (!begin.empty())
        std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
          return weight[a] > weight[b] || (weight[a] == weight[b] && choice[a] < choice[b]);
        });
      for (const std::size_t a : order)
        if (const Index e = routed_expert(choice[a]); e >= 0)
          add(own, static_cast<std::int32_t>(e), row[a] >= 0 && weight[a] > 0);
      own.first.push_back(static_cast<Index>(own.expert.size()));
    }
  }
  void soft(const SoftRouting<B>& r) override {
    const Index experts = r.shape.experts;
    const auto probs = host(r.probs.data, r.probs.size());
    const auto mask = host(r.mask.data, r.mask ? r.shape.tokens : 0);
    TokenExperts& own = layers.emplace_back();
    std::vector<bool> taken(static_cast<std::size_t>(experts));
    for (Index t = 0; t < r.shape.tokens; ++t) {
      const T* p = probs.data() + t * experts;
      taken.assign(taken.size(), false);
      if (mask.empty() || mask[static_cast<std::size_t>(t)] != 0)
        for (Index k = 0; k < soft_choices_ && k < experts; ++k) {
          std::int32_t best = -1;
          for (std::int32_t e = 0; e < experts; ++e)
            if (!taken[static_cast<std::size_t>(e)] && (best < 0 || p[e] > p[best])) best = e;
          taken[static_cast<std::size_t>(best)] = true;
          add(own, best, p[best] > 0);
        }
      own.first.push_back(static_cast<Index>(own.expert.size()));
    }
  }

 private:
  static void add(TokenExperts& to, std::int32_t expert, bool served) {
    to.expert.push_back(expert);
    to.served.push_back(served ? 1 : 0);
  }
  template <class V>
  std::vector<std::remove_const_t<V>> host(V* from, Index size) const {
    std::vector<std::remove_const_t<V>> own(static_cast<std::size_t>(size));
    if (size > 0) backend_->copy_to_host(own.data(), from, own.size() * sizeof(V));
    return own;
  }

  B* backend_;
  Index soft_choices_;
};

}  // namespace moxie
