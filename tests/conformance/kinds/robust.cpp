// Objectives and mixtures of robust models, change of routes, certificates.
#include "conformance/kinds/kind.hpp"
#include "conformance/kinds/values.hpp"
#include "moxie/ops/argmax.hpp"
#include "moxie/ops/cross_entropy.hpp"
#include "moxie/ops/kl_divergence.hpp"
#include "moxie/ops/top_k.hpp"
#include "moxie/robust/certificate.hpp"
#include "moxie/robust/dual_mixture.hpp"
#include "moxie/routing/routing_change.hpp"

namespace moxie::conformance {
namespace {

template <class T>
double sum(const std::vector<T>& values) {
  double total = 0;
  for (const T v : values) total += static_cast<double>(v);
  return total;
}

struct RobustObjectives {
  template <Backend B>
  static Json run(const Json& inputs, Ranking& ranking) {
    B b;
    const Table<B> adv = table(b, inputs.at("adv_logits"));
    const Index n = adv.view().rows;
    const Index classes = adv.view().cols;
    std::vector<double> one_hot(at(n * classes));
    for (Index s = 0; s < n; ++s)
      one_hot[at(s * classes + inputs.at("y").at(at(s)).get<Index>())] = 1;
    const Buffer<B, typename B::Scalar> losses(b, n);
    softmax_cross_entropy(b, adv.read(), Table<B>(b, n, classes, one_hot).read(), losses.view(),
                          Matrix<B>{});
    const double count = static_cast<double>(n);
    const double ce = sum(host(b, losses.view())) / count;

    const Table<B> scores = table(b, inputs.at("router_scores"));
    ranking.rows(flat<double>(inputs["router_scores"]), scores.view().cols);
    const Buffer<B, std::int32_t> ranked(b, n);
    rank_rows(b, scores.read(), ConstIntVector<B>{}, 1, IntMatrix<B>(ranked.view().data, n, 1));
    const auto second = host(b, ranked.view());
    Json clean = Json::array(), shaken = Json::array();
    for (Index s = 0; s < n; ++s) {
      clean.push_back(inputs.at("expert_clean").at(at(Index{second[at(s)]})).at(at(s)));
      shaken.push_back(inputs.at("expert_adv").at(at(Index{second[at(s)]})).at(at(s)));
    }
    const double beta = inputs.at("beta").get<double>();
    double all = 0;
    for (std::size_t e = 0; e < inputs["expert_clean"].size(); ++e)
      all += consistency(b, inputs["expert_clean"][e], inputs["expert_adv"].at(e));
    Json out{{"ce", ce},
             {"second_expert", list(second)},
             {"second", ce + beta * consistency(b, clean, shaken) / count},
             {"all", ce + beta * all / count}};

    const Table<B> standard = table(b, inputs.at("zs"));
    const Table<B> robust = table(b, inputs.at("zr"));
    const double alpha = inputs.at("alpha").get<double>();
    const auto mix = [&](DualSpace space, const char* values, const char* best) {
      const Table<B> mixed(b, standard.view().rows, standard.view().cols);
      const Buffer<B, std::int32_t> top(b, standard.view().rows);
      mix_scores(b, space, alpha, standard.read(), robust.read(), mixed.view());
      argmax_rows(b, mixed.read(), top.view());
      ranking.rows(mixed.get(), mixed.view().cols);
      out[values] = mixed.json();
      out[best] = list(host(b, top.view()));
    };
    mix(DualSpace::logit, "dual_logit", "argmax_logit");
    mix(DualSpace::probability, "dual_prob", "argmax_prob");
    return out;
  }

 private:
  /// The sum over images of KL(clean || shaken).
  template <Backend B>
  static double consistency(B& b, const Json& clean, const Json& shaken) {
    const Table<B> p = table(b, clean);
    const Table<B> q = table(b, shaken);
    const Buffer<B, typename B::Scalar> losses(b, p.view().rows);
    kl_divergence(b, p.read(), q.read(), losses.view(), Matrix<B>{}, Matrix<B>{});
    return sum(host(b, losses.view()));
  }
};

struct ExpertIou {
  template <Backend B>
  static Json run(const Json& inputs, Ranking&) {
    const RoutingChange change = routing_change(experts_of(inputs.at("weights_before")),
                                                experts_of(inputs.at("weights_after")));
    return {{"iou", 1 - change.iou}, {"routing_change", change.iou}};
  }

 private:
  /// Every expert of every token: weights tell which serve.
  static TokenExperts experts_of(const Json& weights) {
    TokenExperts out;
    for (const Json& token : weights) {
      for (std::size_t e = 0; e < token.size(); ++e) {
        out.expert.push_back(static_cast<std::int32_t>(e));
        out.served.push_back(token[e].get<double>() > 0 ? 1 : 0);
      }
      out.first.push_back(static_cast<Index>(out.expert.size()));
    }
    return out;
  }
};

/// Certificates are computed in double whatever the backend.
struct Certificates {
  template <Backend B>
  static Json run(const Json& inputs, Ranking&) {
    const HostTable w(inputs.at("w"));
    Json out{{"sigma_max", gram_iteration(w.view(), 40)},
             {"frobenius", frobenius_norm(w.view())},
             {"power3", power_iteration(w.view(), 3).value}};
    for (int steps = 0; steps <= 32; ++steps)  // a case lists some of them
      out["gram"][std::to_string(steps)] = gram_iteration(w.view(), steps);

    const auto outputs = flat<double>(inputs.at("outputs"));
    const auto y = inputs.at("y").get<Index>();
    const auto alpha = inputs.at("alpha").get<double>();
    const auto gate = flat<double>(inputs.at("gate"));
    const auto gate_lip = flat<double>(inputs.at("r_lip"));
    const auto lip = flat<double>(inputs.at("expert_lip"));
    const HostTable by_class(inputs.at("expert_lip_class"));
    const auto experts = static_cast<Index>(lip.size());
    const MixtureConstants same{
        .gate = gate, .gate_lip = gate_lip, .expert_lip = {lip.data(), experts, 1}};
    const MixtureConstants own{.gate = gate, .gate_lip = gate_lip, .expert_lip = by_class.view()};
    const auto slopes = [&](const MixtureConstants& c) {
      std::vector<double> d;
      for (Index k = 0; k < static_cast<Index>(outputs.size()); ++k)
        d.push_back(mixture_slope(c, k));
      return list(d);
    };
    out["denominators"] = slopes(same);
    out["denominators_class"] = slopes(own);
    out["radius_sound"] = certify_mixture(outputs, y, same).radius;
    out["radius_sound_class"] = certify_mixture(outputs, y, own).radius;
    out["radius_paper"] = published_radius(outputs, y, same).radius;
    out["dual_sound"] = certify_dual(outputs, y, alpha, same).radius;
    out["dual_paper"] = published_dual_radius(outputs, y, alpha, same).radius;
    const auto logits = flat<double>(inputs.at("logits"));
    const HostTable router(inputs.at("wr"));
    out["route_top1"] = route_radius(logits, router.view(), 1);
    if (logits.size() > 1) out["route_top2"] = route_radius(logits, router.view(), 2);
    return out;
  }

 private:
  struct HostTable {
    std::vector<double> values;
    Index rows, cols;

    explicit HostTable(const Json& j)
        : values(flat<double>(j)), rows(length(j)), cols(columns(j)) {}
    MatrixView<const double> view() const { return {values.data(), rows, cols}; }
  };
};

}  // namespace

std::vector<Kind> robust_kinds() {
  return {make_kind<RobustObjectives>("18_rter_dual"), make_kind<ExpertIou>("21_expert_iou"),
          make_kind<Certificates>("22_certificates")};
}

}  // namespace moxie::conformance
