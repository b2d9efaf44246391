// Adversarial training, TRADES and RT-ER: their losses against sums made on the host, and their
// gradients for a fixed perturbation against differences.
#include <algorithm>
#include <cmath>

#include "device/allocations.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/expert/networks.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/nn/vit.hpp"
#include "moxie/router/bias.hpp"
#include "moxie/router/hash.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/train/rt_er.hpp"
#include "moxie/train/trades.hpp"
#include "support/backends.hpp"
#include "support/errors.hpp"
#include "support/numbers.hpp"
#include "support/parameters.hpp"

namespace robust_objective_test {

namespace {

using moxie::Index;
using moxie::RtEr;
using B = moxie::CpuBackend<double>;

constexpr Index width = 6, classes = 3, experts = 3, images = 5;

struct MakeMlp {
  template <moxie::Backend Any>
  moxie::Mlp<Any> operator()(const moxie::Scope<Any>& scope) const {
    return {scope, width, 7, classes};
  }
};
using Mixture = moxie::MoeLayer<B, moxie::TopKRouter, moxie::Dropless, moxie::Networks<MakeMlp>>;

Mixture mixture(B& backend, Index k = 1, bool renormalize = false, Index of = experts) {
  Mixture model(backend, {.width = width, .experts = of},
                moxie::TopKRouter{.k = k, .renormalize = renormalize}, moxie::Dropless{},
                moxie::Networks<MakeMlp>{{}, classes});
  const auto values = model.parameters().edit();
  const auto draw = moxie::test::normals(values.size, 31);
  backend.copy_from_host(values.data, draw.data(), draw.size() * sizeof(double));
  return model;
}

struct Data {
  std::vector<double> x, labels;

  explicit Data(Index pixels = width, Index of = classes) {
    for (const double v : moxie::test::normals(images * pixels, 9)) x.push_back(0.5 + 0.1 * v);
    for (double& v : x) v = v < 0 ? 0 : v > 1 ? 1 : v;
    labels.assign(static_cast<std::size_t>(images * of), 0);
    for (Index i = 0; i < images; ++i) labels[static_cast<std::size_t>(i * of + i % of)] = 1;
  }
  moxie::Batch<B> batch(Index n = images) const {
    return {{x.data(), n, static_cast<Index>(x.size()) / images},
            {labels.data(), n, static_cast<Index>(labels.size()) / images}};
  }
};

/// An attack without steps: its random start is a perturbation that no parameter moves.
moxie::TrainingAttack fixed() { return {.pgd = {.threat = {.eps = 0.1}, .steps = 0}}; }
moxie::TrainingAttack pgd() { return {.pgd = {.threat = {.eps = 0.1}, .step = 0.03, .steps = 4}}; }

double mean(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += x;
  return sum / static_cast<double>(v.size());
}

template <class M, class O>
void check_gradient(const M& model, const O& objective, const Data& data, Index every = 1) {
  B& backend = model.parameters().backend();
  moxie::OwnedObjectiveState<M, O> state(objective, model, images);
  auto& p = model.parameters();
  const moxie::Pass<B> pass{.seed = 3, .step = 4};
  p.zero_gradients();
  objective.accumulate(model, data.batch(), *state, pass);
  const std::vector<double> gradient(p.gradients().data, p.gradients().data + p.size());
  const auto loss_at = [&](Index i, double shift) {
    p.edit()[i] += shift;
    objective.accumulate(model, data.batch(), *state, pass);
    p.edit()[i] -= shift;
    return mean(state->read_losses(backend));
  };
  bool moved = false;
  for (Index i = 0; i < p.size(); i += every) {
    const double difference = (loss_at(i, 1e-5) - loss_at(i, -1e-5)) / 2e-5;
    moved = moved || difference != 0;
    CAPTURE(i);
    CHECK(gradient[static_cast<std::size_t>(i)] ==
          doctest::Approx(difference).epsilon(1e-6).scale(1));
  }
  CHECK(moved);
}

std::vector<double> softmax(const double* z) {
  std::vector<double> p;
  double sum = 0;
  for (Index c = 0; c < classes; ++c) sum += std::exp(z[c]);
  for (Index c = 0; c < classes; ++c) p.push_back(std::exp(z[c]) / sum);
  return p;
}
double kl(const double* clean, const double* shaken) {
  const auto p = softmax(clean), q = softmax(shaken);
  double sum = 0;
  for (std::size_t c = 0; c < p.size(); ++c) sum += p[c] * std::log(p[c] / q[c]);
  return sum;
}

/// Parameters of the mixture, as one reads them oneself.
class Oracle {
 public:
  explicit Oracle(const Mixture& model) : Oracle(model.parameters()) {}
  explicit Oracle(const moxie::Parameters<B>& parameters) : p_(parameters) {}
  std::vector<double> expert(Index e, const double* x) const {
    const std::string at = std::to_string(e);
    std::vector<double> h = affine(at + "/Dense_0/", x, width, 7);
    for (double& v : h) v = moxie::Gelu::value(v);
    return affine(at + "/Dense_1/", h.data(), 7, classes);
  }
  /// Experts from the best to the worst.
  std::vector<Index> ranking(const double* x) const {
    const auto z = scores(x);
    std::vector<Index> order;
    for (Index e = 0; e < static_cast<Index>(z.size()); ++e) order.push_back(e);
    std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) {
      return z[static_cast<std::size_t>(a)] > z[static_cast<std::size_t>(b)];
    });
    return order;
  }
  /// The best expert's scores, times its gate.
  std::vector<double> mixture(const double* x) const {
    const auto gates = softmax(scores(x).data());
    const Index best = ranking(x)[0];
    auto y = expert(best, x);
    for (double& v : y) v *= gates[static_cast<std::size_t>(best)];
    return y;
  }

 private:
  std::vector<double> scores(const double* x) const {
    return product("Router/kernel", x, width, experts);
  }
  std::vector<double> affine(const std::string& at, const double* x, Index in, Index out) const {
    auto y = product(at + "kernel", x, in, out);
    const double* bias = values(at + "bias");
    for (Index j = 0; j < out; ++j) y[static_cast<std::size_t>(j)] += bias[j];
    return y;
  }
  std::vector<double> product(const std::string& name, const double* x, Index in, Index out) const {
    const double* w = values(name);
    std::vector<double> y(static_cast<std::size_t>(out));
    for (Index i = 0; i < in; ++i)
      for (Index j = 0; j < out; ++j) y[static_cast<std::size_t>(j)] += x[i] * w[i * out + j];
    return y;
  }
  const double* values(const std::string& suffix) const {
    for (const auto& e : p_.entries())
      if (e.name == suffix || e.name.ends_with("/" + suffix)) return p_.values().data + e.offset;
    FAIL("no parameter ", suffix);
    return nullptr;
  }
  const moxie::Parameters<B>& p_;
};

}  // namespace

static_assert(moxie::Objective<moxie::Adversarial, Mixture> &&
              moxie::Objective<moxie::Trades, Mixture> && moxie::Objective<RtEr, Mixture>);

TEST_CASE("gradients of adversarial training and TRADES against differences") {
  B backend;
  const auto model = mixture(backend, 2);
  const Data data;
  check_gradient(model, moxie::Adversarial{.attack = fixed()}, data);
  check_gradient(model, moxie::Trades{.attack = fixed(), .beta = 2}, data);
}

TEST_CASE("gradients of RT-ER against differences, for every choice of experts and delta") {
  B backend;
  const Data data;
  for (const Index k : {1, 2}) {
    const auto model = mixture(backend, k);
    using enum RtEr::Experts;
    for (const RtEr::Experts which : {second, all, all_mean})
      for (const RtEr::Delta delta : {RtEr::Delta::own, RtEr::Delta::shared})
        check_gradient(model, RtEr{.attack = fixed(), .beta = 3, .experts = which, .delta = delta},
                       data, 3);
  }
}

TEST_CASE("with a detached clean argument only the perturbed one learns") {
  B backend;
  const auto model = mixture(backend);
  const Data data;
  auto& p = model.parameters();
  const auto gradient = [&](const RtEr& objective) {
    moxie::OwnedObjectiveState<Mixture, RtEr> state(objective, model, images);
    p.zero_gradients();
    objective.accumulate(model, data.batch(), *state, {.seed = 3});
    return std::vector<double>(p.gradients().data, p.gradients().data + p.size());
  };
  const auto whole = gradient({.attack = fixed(), .beta = 3});
  const auto detached = gradient({.attack = fixed(), .beta = 3, .detach_clean = true});
  const auto none = gradient({.attack = fixed(), .beta = 0});
  CHECK(whole != detached);
  CHECK(detached != none);
  // The router learns from the cross-entropy alone
  const auto& router = moxie::test::entry_of(p, "Router/kernel");
  CHECK(moxie::test::part_of(whole, router) == moxie::test::part_of(none, router));
}

TEST_CASE("the terms of RT-ER are those of the definition") {
  B backend;
  const auto model = mixture(backend);
  const Oracle oracle(model);
  const Data data;
  for (const RtEr::Experts which : {RtEr::Experts::second, RtEr::Experts::all})
    for (const RtEr::Delta delta : {RtEr::Delta::own, RtEr::Delta::shared}) {
      const RtEr objective{.attack = pgd(), .beta = 2.5, .experts = which, .delta = delta};
      moxie::OwnedObjectiveState<Mixture, RtEr> state(objective, model, images);
      objective.accumulate(model, data.batch(), *state, {.seed = 3});
      const auto total = state->read_losses(backend);
      for (Index s = 0; s < images; ++s) {
        const double* x = data.x.data() + s * width;
        const double* x_adv = state->x_adv.row(s);
        for (Index j = 0; j < width; ++j) CHECK(std::abs(x_adv[j] - x[j]) <= 0.1);
        const auto y = oracle.mixture(x_adv);
        CHECK(state->losses[s] ==
              doctest::Approx(-std::log(softmax(y.data())[static_cast<std::size_t>(s % classes)])));
        if (which == RtEr::Experts::second) {
          const Index second = oracle.ranking(x)[1];
          CHECK(state->choice(s, 0) == second);
          CHECK(state->consistency[s] ==
                doctest::Approx(kl(oracle.expert(second, x).data(),
                                   oracle.expert(second, state->x_expert.row(s)).data())));
        } else if (delta == RtEr::Delta::shared) {
          double sum = 0;
          for (Index e = 0; e < experts; ++e)
            sum += kl(oracle.expert(e, x).data(), oracle.expert(e, x_adv).data());
          CHECK(state->consistency[s] == doctest::Approx(sum));
        }
        CHECK(total[static_cast<std::size_t>(s)] ==
              doctest::Approx(state->losses[s] + 2.5 * state->consistency[s]));
        CHECK((state->x_expert.data == state->x_adv.data) == (delta == RtEr::Delta::shared));
      }
    }
}

TEST_CASE("an expert's own attack hurts that expert more than one on the whole model") {
  B backend;
  const auto model = mixture(backend);
  const Oracle oracle(model);
  const Data data;
  const auto loss = [&](const RtEr& objective) {
    moxie::OwnedObjectiveState<Mixture, RtEr> state(objective, model, images);
    objective.accumulate(model, data.batch(), *state, {.seed = 3});
    double sum = 0;
    for (Index s = 0; s < images; ++s) {
      const auto y = oracle.expert(state->choice(s, 0), state->x_expert.row(s));
      sum -= std::log(softmax(y.data())[static_cast<std::size_t>(s % classes)]);
    }
    return sum;
  };
  const moxie::TrainingAttack strong{.pgd = {.threat = {.eps = 0.1}, .step = 0.02, .steps = 20}};
  CHECK(loss({.attack = strong}) > loss({.attack = strong, .delta = RtEr::Delta::shared}) + 0.01);
}

TEST_CASE("all_mean is a mean of what all sums") {
  B backend;
  const auto model = mixture(backend);
  const Data data;
  const auto consistency = [&](RtEr::Experts which) {
    const RtEr objective{.attack = pgd(), .experts = which};
    moxie::OwnedObjectiveState<Mixture, RtEr> state(objective, model, images);
    objective.accumulate(model, data.batch(), *state, {.seed = 3});
    return state->consistency[2];
  };
  CHECK(consistency(RtEr::Experts::all) ==
        doctest::Approx(3 * consistency(RtEr::Experts::all_mean)));
}

TEST_CASE("weights of one expert that sum to 1 fix the router, as the released code does") {
  B backend;
  const auto model = mixture(backend, 1, true);
  const Data data;
  auto& p = model.parameters();
  const RtEr objective{.attack = pgd()};
  moxie::OwnedObjectiveState<Mixture, RtEr> state(objective, model, images);
  p.zero_gradients();
  objective.accumulate(model, data.batch(), *state, {.seed = 3});
  const std::vector<double> gradient(p.gradients().data, p.gradients().data + p.size());
  CHECK(moxie::test::all_zero(
      moxie::test::part_of(gradient, moxie::test::entry_of(p, "Router/kernel"))));
  CHECK(!moxie::test::all_zero(gradient));
}

TEST_CASE("TRADES drives the divergence from the clean scores up") {
  B backend;
  const auto model = mixture(backend);
  const Data data;
  const auto divergence = [&](const moxie::TrainingAttack& attack) {
    const moxie::Trades objective{.attack = attack, .beta = 2};
    moxie::OwnedObjectiveState<Mixture, moxie::Trades> state(objective, model, images);
    objective.accumulate(model, data.batch(), *state, {.seed = 3});
    const Oracle oracle(model);
    for (Index s = 0; s < images; ++s)
      CHECK(state->consistency[s] ==
            doctest::Approx(kl(oracle.mixture(data.x.data() + s * width).data(),
                               oracle.mixture(state->x_adv.row(s)).data())));
    return mean({state->consistency.data, state->consistency.data + images});
  };
  CHECK(divergence(pgd()) > 1.5 * divergence(fixed()));
}

TEST_CASE("the released start is the corner of the ball, and costs a step") {
  B backend;
  const auto model = mixture(backend);
  const Data data;
  const moxie::Adversarial objective{
      .attack = {.pgd = {.threat = {.eps = 0.1}, .steps = 1}, .corner_start = true}};
  moxie::OwnedObjectiveState<Mixture, moxie::Adversarial> state(objective, model, images);
  objective.accumulate(model, data.batch(), *state, {});
  for (Index s = 0; s < images; ++s)
    for (Index j = 0; j < width; ++j) {
      const double x = data.x[static_cast<std::size_t>(s * width + j)];
      CHECK(state->x_adv(s, j) == doctest::Approx(x < 0.1 ? 0.0 : x - 0.1));
    }
}

TEST_CASE("a transformer's tokens are sent to their second expert") {
  B backend;
  const moxie::VitConfig config{.image_height = 4,
                                .image_width = 4,
                                .channels = 1,
                                .patch = 2,
                                .width = 8,
                                .blocks = 2,
                                .heads = 2,
                                .hidden = 6,
                                .classes = classes,
                                .moe_blocks = {0, 1}};
  const moxie::Vit<B> model(backend, config, [](const moxie::Scope<B>& at, Index) {
    return moxie::AnyLayer<B>(moxie::MoeLayer{at,
                                              {.width = 8, .experts = 3},
                                              moxie::TopKRouter{.k = 1},
                                              moxie::Dropless{},
                                              moxie::FeedForward<moxie::Gelu>{.hidden = 5}});
  });
  const auto values = model.parameters().edit();
  const auto draw = moxie::test::normals(values.size, 31);
  for (Index i = 0; i < values.size; ++i) values[i] += 0.4 * draw[static_cast<std::size_t>(i)];
  const Data data(16);
  const RtEr objective{.attack = fixed(), .beta = 2, .scope = RtEr::Scope::forced_second};
  check_gradient(model, objective, data, 7);

  // KL of the scores under routes by rank
  moxie::OwnedObjectiveState<moxie::Vit<B>, RtEr> state(objective, model, images);
  objective.accumulate(model, data.batch(), *state, {.seed = 3});
  const std::vector<moxie::Routes<B>> second(2, {.rank = 1});
  const auto scores = [&](moxie::ConstMatrix<B> x) {
    std::vector<double> y(images * classes);
    auto tape = moxie::make_tape(model, images);
    model.forward(x, {y.data(), images, classes}, tape, moxie::Pass<B>{}.with(second));
    return y;
  };
  const auto clean = scores(data.batch().x);
  const auto shaken = scores(moxie::ConstMatrix<B>(state->x_expert));
  for (Index s = 0; s < images; ++s)
    CHECK(state->consistency[s] ==
          doctest::Approx(kl(clean.data() + s * classes, shaken.data() + s * classes)));
}

TEST_CASE("RT-ER's second expert is second by what the router selects by") {
  B backend;
  const moxie::MoeLayer model(backend, {.width = width, .experts = experts},
                              moxie::WithBias{moxie::BiasBalance{}, moxie::TopKRouter{}},
                              moxie::Dropless{}, moxie::Networks<MakeMlp>{{}, classes});
  using M = std::remove_const_t<decltype(model)>;
  auto& p = model.parameters();
  const auto draw = moxie::test::normals(p.size(), 31);
  backend.copy_from_host(p.edit().data, draw.data(), draw.size() * sizeof(double));
  for (std::size_t i = 0; i < p.entries().size(); ++i)
    if (p.entry(i).name == "Router/bias") p.buffer(i)[2] = 10;  // every image goes there
  const Data data;
  const RtEr objective{.attack = fixed(), .beta = 2};
  moxie::OwnedObjectiveState<M, RtEr> state(objective, model, images);
  objective.accumulate(model, data.batch(), *state, {.seed = 3});
  const Oracle oracle(p);
  bool first_by_gate = false;
  for (Index i = 0; i < images; ++i) {
    std::vector<Index> order = oracle.ranking(data.x.data() + i * width);
    first_by_gate = first_by_gate || order[0] != 2;
    std::erase(order, 2);
    CHECK(state->choice(i, 0) == order[0]);
  }
  CHECK(first_by_gate);
}

TEST_CASE("all experts are trained whatever the router, the second needs one that ranks") {
  B backend;
  const moxie::MoeLayer model(backend, {.width = width, .experts = experts}, moxie::HashRouter{},
                              moxie::Dropless{}, moxie::Networks<MakeMlp>{{}, classes});
  using M = std::remove_const_t<decltype(model)>;
  auto& p = model.parameters();
  const auto draw = moxie::test::normals(p.size(), 31);
  backend.copy_from_host(p.edit().data, draw.data(), draw.size() * sizeof(double));
  const Data data;
  RtEr objective{.attack = fixed(), .beta = 2, .experts = RtEr::Experts::all};
  moxie::OwnedObjectiveState<M, RtEr> state(objective, model, images);
  objective.accumulate(model, data.batch(), *state, {.seed = 3});
  CHECK(state->choice(0, 0) == experts - 1);  // the last of them
  for (Index i = 0; i < images; ++i) CHECK(state->consistency[i] > 0);
  objective.experts = RtEr::Experts::second;
  CHECK(moxie::test::message_of<moxie::config_error>([&] {
          objective.accumulate(model, data.batch(), *state, {.seed = 3});
        }).find("rank is 1, expected choices") != std::string::npos);
}

TEST_CASE("a step of RT-ER allocates nothing, and is the same again") {
  B backend;
  const auto model = mixture(backend);
  const Data data;
  auto& p = model.parameters();
  const auto check = [&](const auto& objective) {
    using O = std::remove_cvref_t<decltype(objective)>;
    moxie::OwnedObjectiveState<Mixture, O> state(objective, model, images);
    p.zero_gradients();
    const int before = moxie::test::allocations();
    objective.accumulate(model, data.batch(), *state, {.seed = 3});
    CHECK(moxie::test::allocations() == before);
    const std::vector<double> first(p.gradients().data, p.gradients().data + p.size());
    objective.accumulate(model, data.batch(3), *state, {.seed = 4});
    p.zero_gradients();
    objective.accumulate(model, data.batch(), *state, {.seed = 3});
    CHECK(first == std::vector<double>(p.gradients().data, p.gradients().data + p.size()));
  };
  check(moxie::Adversarial{.attack = pgd()});
  check(moxie::Trades{.attack = pgd()});
  check(RtEr{.attack = pgd()});
  check(RtEr{.attack = pgd(), .experts = RtEr::Experts::all});
}

TEST_CASE("robust objectives refuse what makes no sense") {
  B backend;
  const auto model = mixture(backend);
  const auto message = [&](const auto& objective, const auto& of) {
    using M = std::remove_cvref_t<decltype(of)>;
    return moxie::test::message_of<moxie::config_error>([&] {
      moxie::OwnedObjectiveState<M, std::remove_cvref_t<decltype(objective)>> state(objective, of,
                                                                                    2);
    });
  };
  CHECK(message(RtEr{.beta = -1}, model) ==
        "moxie::RtEr: beta is -1, expected a finite number >= 0");
  CHECK(message(moxie::Trades{.attack = {.pgd = {.random_start = false}}}, model) ==
        "moxie::Trades: attack.pgd.random_start is false, expected true: at the image itself the "
        "divergence from its own scores has no gradient");
  CHECK(message(moxie::Adversarial{.attack = {.pgd = {.targeted = true}}}, model) ==
        "moxie::Adversarial: attack.pgd is targeted, expected an attack away from the labels");
  CHECK(message(RtEr{.attack = {.pgd = {.restarts = 2}}}, model) ==
        "moxie::RtEr: attack.pgd.restarts is 2, expected 1: the last image of one start counts");
  CHECK(message(moxie::Adversarial{.attack = {.pgd = {.threat = {.norm = moxie::Norm::l2}},
                                              .corner_start = true}},
                model) ==
        "moxie::Adversarial: corner_start stands for a corner of the L-infinity ball, expected "
        "Norm::linf");
  const moxie::Linear<B> dense(moxie::root(backend), width, classes);
  CHECK(message(RtEr{}, dense) ==
        "moxie::RtEr: the model has 0 MoE layers, expected one that routes whole images (for a "
        "transformer take Scope::forced_second)");
  CHECK(message(RtEr{.experts = RtEr::Experts::all, .scope = RtEr::Scope::forced_second}, model) ==
        "moxie::RtEr: Scope::forced_second knows the second expert of each token alone, expected "
        "Experts::second");
  const Data data;
  const RtEr objective{.attack = pgd()};
  const auto alone = mixture(backend, 1, false, 1);
  moxie::OwnedObjectiveState<Mixture, RtEr> state(objective, alone, images);
  CHECK_THROWS_WITH_AS(objective.accumulate(alone, data.batch(), *state, {}),
                       "moxie::MoeLayer::forward: pass.routes: rank is 1, expected 0 to 0 (the "
                       "experts less one)",
                       moxie::config_error);
  moxie::OwnedObjectiveState<Mixture, RtEr> small(objective, model, 2);
  CHECK_THROWS_WITH_AS(objective.accumulate(model, data.batch(), *small, {}),
                       "moxie::RtEr::accumulate: the batch has 5 images, the state was made for at "
                       "most 2",
                       moxie::shape_error);
}

}  // namespace robust_objective_test
