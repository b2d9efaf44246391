#pragma once

#include "layer_case.hpp"
#include "moxie/nn/presets.hpp"

namespace bench {

inline constexpr Index telemetry_images = 64;
inline constexpr Index telemetry_experts = 8;

inline Index telemetry_tokens() { return telemetry_images * moxie::vit_preset("nano").tokens(); }
inline std::string telemetry_name() {
  return moxie::detail::message("telemetry/preset:nano/experts:", telemetry_experts,
                                "/tokens:", telemetry_tokens(), "/pass:forward_backward");
}

/// The layer of the preset nano as the trainer makes it, and telemetry of it.
struct TelemetryFixture {
  moxie::Scope<B> scope;
  LayerWithMemory moe;
  moxie::RoutingTelemetry<B> telemetry;
  std::vector<double> ratio, visit, plain;

  TelemetryFixture(const Case&, const Setup& setup)
      : scope(moxie::root(setup.backend)),
        moe(scope, moxie::make_layer(scope, config(), setup.registry),
            normal_numbers(telemetry_tokens() * config().shape.width, 2)),
        telemetry(setup.backend) {}

  double seconds_plain() {
    return seconds([this] { moe.run(true); });
  }
  /// Forward, backward and a visit; the visit's own time goes to `visit`.
  double seconds_visited() {
    return seconds([this] {
      moe.forward();
      visit.push_back(seconds([this] {
        telemetry.begin_pass();
        moe.layer.visit_routing(moe.tape, telemetry);
      }));
      moe.backward();
    });
  }

 private:
  static moxie::MoeConfig config() {
    const moxie::VitConfig vit = moxie::vit_preset("nano");
    moxie::MoeConfig m;
    m.shape = {.width = vit.width, .experts = telemetry_experts};
    m.router.k = 2;
    m.router.noise = 1;
    m.capacity.factor = 1.05;
    m.expert.hidden = vit.hidden;
    m.regularizers = {{.name = std::string(moxie::Importance::name)},
                      {.name = std::string(moxie::NoisyLoad::name)}};
    return m;
  }
};

/// A pass with and one without a visit of RoutingTelemetry, in turn and each first every other time. The time shown is that
/// with; `overhead` is the median over the pairs of with / without, less 1; `visit_share` is the median time of the visit
/// itself over that of a pass without.
inline void run_telemetry(benchmark::State& state, const std::string& name, const Setup& setup) {
  TelemetryFixture& f = fixture<TelemetryFixture>(name, {}, setup);
  (void)f.seconds_plain();
  (void)f.seconds_visited();
  for (std::vector<double>* v : {&f.ratio, &f.visit, &f.plain}) v->clear();
  const auto pair = [&f] {
    double with = 0;
    const bool visited_first = f.ratio.size() % 2 == 1;
    if (visited_first) with = f.seconds_visited();
    f.plain.push_back(f.seconds_plain());
    if (!visited_first) with = f.seconds_visited();
    f.ratio.push_back(with / f.plain.back());
    return with;
  };
  for (auto _ : state) state.SetIterationTime(pair());
  // The difference is smaller than the noise of a few pairs.
  for (double spent = 0; f.ratio.size() < 201 && spent < 4;) spent += pair() + f.plain.back();
  count_tokens(state, telemetry_tokens());
  state.counters["overhead"] = median(f.ratio) - 1;
  state.counters["visit_share"] = median(f.visit) / median(f.plain);
}

}  // namespace bench
