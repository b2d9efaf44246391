// Attacks: PGD and APGD on a small network, losses, planes of FAB, windows of Square.
#include "conformance/kinds/kind.hpp"
#include "conformance/kinds/layers.hpp"
#include "moxie/nn/mlp.hpp"
#include "moxie/robust/auto_attack.hpp"
#include "moxie/robust/pgd.hpp"

namespace moxie::conformance {
namespace {

template <Backend B>
Mlp<B> network(B& b, const Json& inputs) {
  const Scope<B> scope = root(b);
  const Index classes = columns(inputs.at("w2"));
  Mlp<B> model(scope, length(inputs.at("w1")), length(inputs.at("w2")), classes);
  Parameters<B>& p = *scope.parameters;
  p.initialize(0);
  set(p, "Dense_0/kernel", flat<double>(inputs["w1"]));
  set(p, "Dense_0/bias", flat<double>(inputs.at("b1")));
  set(p, "Dense_1/kernel", flat<double>(inputs["w2"]));
  set(p, "Dense_1/bias", std::vector<double>(at(classes)));
  return model;
}

std::vector<Index> checkpoints(Index iterations) {
  ApgdSchedule schedule(iterations);
  std::vector<Index> ends;
  for (Index i = 0; i < iterations; ++i) {
    if (schedule.ends_window()) ends.push_back(i + 1);
    schedule.advance();
  }
  return ends;
}

struct GradientAttacks {
  template <Backend B>
  static Json run(const Json& inputs, Ranking&) {
    B b;
    const Mlp<B> model = network(b, inputs);
    const auto pixels = flat<double>(inputs.at("x0"));
    const auto width = static_cast<Index>(pixels.size());
    const Table<B> x0(b, 1, width, pixels);
    const Table<B> x(b, 1, width, pixels);
    const Buffer<B, std::int32_t> y(b, 1), standing(b, 1);
    upload(b, y.view(), std::vector<std::int32_t>{inputs.at("y").get<std::int32_t>()});
    const AttackBatch<B> batch{.x = x0.read(), .y = y.view()};
    const Threat threat{.eps = inputs.at("eps").get<double>()};

    const Pgd pgd{.threat = threat,
                  .step = inputs.at("pgd_step_size").get<double>(),
                  .steps = inputs.at("pgd_steps").get<int>(),
                  .random_start = false};
    RunAttack steps{LayerTarget{model}, pgd, 1};
    pgd.begin(steps.target(), steps.state(), 1);
    Json out{{"pgd", Json::array()}};
    for (int t = 0; t < pgd.steps; ++t) {
      pgd.iterate(steps.target(), batch, steps.state(), x.view());
      out["pgd"].push_back(list(x.get()));
    }

    const Apgd apgd{.threat = threat, .iterations = inputs.at("apgd_iters").get<int>()};
    const Table<B> start(b, 1, width, flat<double>(inputs.at("start")));
    RunAttack climb{LayerTarget{model}, apgd, 1};
    apgd.begin(climb.target(), batch, climb.state(), start.read(), x.view(), standing.view());
    const detail::ApgdPoints<B>& point = climb.state().points;
    const auto number = [&](Vector<B> v) { return static_cast<double>(host(b, v).at(0)); };
    std::vector<double> losses, sizes;
    for (int i = 0; i < apgd.iterations; ++i) {
      sizes.push_back(number(point.step));
      apgd.iterate(climb.target(), batch, climb.state(), x.view(), standing.view());
      losses.push_back(number(point.loss));
    }
    out["apgd"] = {{"losses", list(losses)},
                   {"steps", list(sizes)},
                   {"loss_best", number(point.best_loss)},
                   {"x_best", list(host(b, Vector<B>(point.best.data, width)))}};
    for (const Json& n : inputs.at("checkpoint_iters"))
      out["checkpoints"][std::to_string(n.get<Index>())] = list(checkpoints(n.get<Index>()));
    return out;
  }
};

struct AttackParts {
  template <Backend B>
  static Json run(const Json& inputs, Ranking& ranking) {
    B b;
    Json out;
    const Table<B> logits = table(b, inputs.at("logits"));
    ranking.rows(flat<double>(inputs["logits"]), columns(inputs["logits"]));
    out["dlr"] = losses(b, AttackLoss::dlr, logits.read(), inputs);
    out["dlr_targeted"] = losses(b, AttackLoss::targeted_dlr, logits.read(), inputs);
    out["d_reachable"] = ways(b, inputs, "b_reachable");
    out["d_unreachable"] = ways(b, inputs, "b_unreachable");
    out["fab"] = step(b, inputs);
    const Square square{.height = inputs.at("height").get<Index>(),
                        .width = inputs.at("width").get<Index>(),
                        .p_init = inputs.at("p_init").get<double>()};
    out["side"] = Json::array();
    for (const Json& it : inputs.at("iterations"))
      out["side"].push_back(square.side(it.get<Index>()));
    return out;
  }

 private:
  template <Backend B>
  static Buffer<B, std::int32_t> numbers(B& b, const std::vector<std::int32_t>& values) {
    Buffer<B, std::int32_t> out(b, static_cast<Index>(values.size()));
    upload(b, out.view(), values);
    return out;
  }
  template <Backend B>
  static Json losses(B& b, AttackLoss kind, ConstMatrix<B> logits, const Json& inputs) {
    std::vector<std::int32_t> rows;
    for (Index r = 0; r < logits.rows; ++r) rows.push_back(static_cast<std::int32_t>(r));
    const auto image = numbers(b, rows);
    const auto y = numbers(b, flat<std::int32_t>(inputs.at("y")));
    const auto target = numbers(b, flat<std::int32_t>(inputs.at("target")));
    const Buffer<B, typename B::Scalar> out(b, logits.rows);
    attack_losses(b, kind, logits, ConstIntVector<B>(image.view()), ConstIntVector<B>(y.view()),
                  ConstIntVector<B>(target.view()), out.view(), Matrix<B>{}, IntVector<B>{});
    return list(host(b, out.view()));
  }
  template <Backend B>
  static Json ways(B& b, const Json& inputs, const char* key) {
    const Table<B> t = table(b, inputs.at("t"));
    const Table<B> w = table(b, inputs.at("w"));
    const Table<B> plane(b, 1, t.view().rows, flat<double>(inputs.at(key)));
    const Table<B> d(b, t.view().rows, t.view().cols);
    way_to_planes(b, t.read(), w.read(), ConstVector<B>(plane.view().data, t.view().rows),
                  d.view());
    return d.json();
  }
  template <Backend B>
  static Json step(B& b, const Json& inputs) {
    const auto row = [&](const char* key) {
      const auto values = flat<double>(inputs.at(key));
      return Table<B>(b, 1, static_cast<Index>(values.size()), values);
    };
    const Table<B> x = row("x1"), center = row("x0"), w = row("dg"), gap = row("df");
    const Table<B> bias(b, 1, 1), plane(b, 1, 1), d(b, 1, x.view().cols);
    const auto image = numbers(b, {0});
    Json out;
    // The plane w.z = w.x1 - df, from both points
    double offset = -inputs.at("df").get<double>();
    for (Index j = 0; j < x.view().cols; ++j)
      offset += inputs.at("dg").at(at(j)).get<double>() * inputs.at("x1").at(at(j)).get<double>();
    upload(b, Vector<B>(plane.view().data, 1), std::vector<double>{offset});
    const auto way = [&](const Table<B>& from) {
      way_to_planes(b, from.read(), w.read(), ConstVector<B>(plane.view().data, 1), d.view());
      return list(d.get());
    };
    out["d1"] = way(x);
    out["d2"] = way(center);
    const FabTargeted fab{};
    fab_step(b, fab.threat, fab.most_bias, fab.overshoot, ConstIntVector<B>(image.view()),
             center.read(), w.read(), ConstVector<B>(gap.view().data, 1), x.view(),
             Vector<B>(bias.view().data, 1));
    out["alpha"] = static_cast<double>(bias.get().at(0));
    out["x"] = list(x.get());
    return out;
  }
};

}  // namespace

std::vector<Kind> attack_kinds() {
  return {make_kind<GradientAttacks>("19_pgd_apgd", iterated),
          make_kind<AttackParts>("20_dlr_fab_square")};
}

}  // namespace moxie::conformance
