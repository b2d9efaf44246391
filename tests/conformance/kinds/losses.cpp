// Losses on the routing of one group.
#include "conformance/kinds/kind.hpp"
#include "conformance/kinds/lists.hpp"
#include "moxie/regularizer/global_entropy.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/regularizer/local_entropy.hpp"
#include "moxie/regularizer/mutual_information.hpp"
#include "moxie/regularizer/noisy_load.hpp"
#include "moxie/regularizer/router_z.hpp"
#include "moxie/regularizer/switch_balance.hpp"
#include "moxie/regularizer/top_k_balance.hpp"
#include "moxie/router/top_k.hpp"

namespace moxie::conformance {
namespace {

/// Routing by clean logits, or by logits with noise that is given.
template <Backend B>
struct Group {
  B backend{};
  TopKRouter router;
  SparseFixture<B> f;

  Group(const Json& inputs, bool noisy, Index group)
      : router{.k = inputs.at("k").get<Index>()},
        f(backend,
          {.tokens = length(inputs.at("logits")),
           .experts = columns(inputs["logits"]),
           .choices = router.k,
           .group = group},
          {.noisy = noisy}) {
    router.check(f.shape().experts);
    std::vector<double> logits = flat<double>(inputs["logits"]);
    f.set_logits(logits);
    if (noisy) {
      const auto noise = flat<double>(inputs.at("noise"));
      for (std::size_t i = 0; i < logits.size(); ++i) logits[i] += noise.at(i);
      f.set_noisy_logits(logits);
      f.routing.noise_std = inputs.at("sigma").get<double>();
    }
    router.route(backend, f.context, f.routing);
  }

  /// What `loss` sums over the tokens of each group.
  template <class A>
  Buffer<B, typename B::Scalar> sums(const A& loss) {
    Buffer<B, typename B::Scalar> own(backend, loss.sums(f.shape()));
    loss.accumulate(backend, f.context, f.routing, own.view());
    return own;
  }
  /// Adds the loss and its gradient under the given name; `sign` -1: what is maximized.
  template <class A>
  void add(const A& loss, const std::string& name, double sign, Json& out) {
    const auto own = sums(loss);
    const Buffer<B, typename B::Scalar> value(backend, 1);
    loss.loss(backend, f.context, f.routing, ConstVector<B>(own.view()), value.view());
    f.zero_gradients();
    loss.loss_backward(backend, f.context, f.routing, ConstVector<B>(own.view()), f.gradients);
    router.route_backward(backend, f.context, f.routing, f.gradients);
    std::vector<double> d;
    for (const auto v : f.d_logits()) d.push_back(sign * static_cast<double>(v));
    out[name] = sign * static_cast<double>(host(backend, value.view()).at(0));
    out["d_" + name] = nested(d, {f.shape().tokens, f.shape().experts});
  }
};

struct AuxiliaryLosses {
  template <Backend B>
  static Json run(const Json& inputs, Ranking& ranking) {
    Json out;
    Group<B> clean(inputs, false, 0);
    clean.add(Importance{.weight = 1}, "importance", 1, out);
    clean.add(SwitchBalance{.weight = 1}, "gshard", 1, out);
    clean.add(TopKBalance{.weight = 1}, "switch_topk", 1, out);
    clean.add(RouterZ{.weight = 1}, "z", 1, out);
    clean.add(LocalEntropy{.weight = 1}, "local_entropy", 1, out);
    clean.add(GlobalEntropy{.weight = 1}, "global_entropy", -1, out);
    clean.add(MutualInformation{.weight = 1}, "mutual_information", -1, out);

    Group<B> noisy(inputs, true, 0);
    noisy.add(NoisyLoad{.weight = 1}, "load", 1, out);
    const Index tokens = clean.f.shape().tokens;
    const Index experts = clean.f.shape().experts;
    // In groups of one token the sums, which come first, are the token's own probabilities.
    Group<B> single(inputs, true, 1);
    const auto own = single.sums(NoisyLoad{});
    out["load_prob"] =
        nested(host(single.backend, own.view().middle(0, tokens * experts)), {tokens, experts});

    ranking.rows(flat<double>(inputs["logits"]), experts);
    ranking.rows(noisy.f.noisy_logits(), experts);
    return out;
  }
};

}  // namespace

std::vector<Kind> loss_kinds() { return {make_kind<AuxiliaryLosses>("14_aux_losses")}; }

}  // namespace moxie::conformance
