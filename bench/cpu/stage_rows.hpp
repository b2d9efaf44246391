#pragma once

#include <memory>
#include <string>
#include <vector>

#include "layer_rows.hpp"
#include "moxie/router/sinkhorn_top_k.hpp"
#include "stage_clock.hpp"

namespace bench {

/// A layer that knows how long its stages took.
class ClockedLayer {
 public:
  template <class R>
  ClockedLayer(B& backend, const LayerShape& s, R router)
      : clock_(std::make_unique<StageClock>()), layer_(make(backend, s, router, *clock_)) {}

  void forward() {
    clock_->start();
    layer_.forward();
    clock_->end(Stage::forward_rest);
  }
  void backward() {
    clock_->start();
    layer_.backward();
    clock_->end(Stage::backward_rest);
  }
  const StageClock& clock() const { return *clock_; }

 private:
  template <class R>
  static LayerWithMemory make(B& backend, const LayerShape& s, R router, StageClock& clock) {
    moxie::Scope<B> scope = moxie::root(backend);
    moxie::MoeLayer layer{scope, moxie::MoeShape{.width = s.width, .experts = s.experts},
                          ClockedRouter<R>(router, clock), moxie::Dropless{},
                          ClockedExpert{{.hidden = s.hidden}, &clock}};
    LayerWithMemory made(
        scope, layer, make_input(drawn_logits("uniform", s.tokens, s.experts), s.experts, s.width));
    set_gates(*scope.parameters, s.experts);
    return made;
  }

  std::unique_ptr<StageClock> clock_;  // its address is in the layer
  LayerWithMemory layer_;
};

/// Seconds of each stage of one layer, round by round.
struct StageTimes {
  std::array<std::vector<double>, stages> seconds;

  void add(const StageClock& clock) {
    for (std::size_t i = 0; i < stages; ++i) seconds[i].push_back(clock.seconds[i]);
  }
  void report(CpuReport& to, const std::string& name, int threads, std::size_t count) const {
    for (std::size_t i = 0; i < count; ++i)
      to.add(Measurement{name + "/stage:" + stage_names[i], threads, seconds[i]});
  }
  /// Median share of route and maps in a forward.
  double routing_share() const {
    std::vector<double> shares;
    for (std::size_t round = 0; round < seconds[0].size(); ++round) {
      double all = 0;
      for (std::size_t i = 0; i <= static_cast<std::size_t>(Stage::forward_rest); ++i)
        all += seconds[i][round];
      shares.push_back((at(Stage::route, round) + at(Stage::maps, round)) / all);
    }
    return median(shares);
  }

 private:
  double at(Stage stage, std::size_t round) const {
    return seconds[static_cast<std::size_t>(stage)][round];
  }
};

/// Time per stage of the usual layer. (What of the experts' time is products: the row `layer`.)
inline void stages_row(CpuRun& run) {
  const LayerShape s = usual_shape(run);
  for (const int threads : run.options.threads) {
    Workers on(threads);
    ClockedLayer layer(on.backend, s, moxie::TopKRouter{.k = s.choices});
    StageTimes times;
    bool counted = false;  // not the first round
    times_in_turn(run.rounds(), {{[&] {
                    layer.forward();
                    layer.backward();
                    if (counted) times.add(layer.clock());
                    counted = true;
                  }}});
    times.report(run.report, "stages/" + axes_of(s), threads, stages);
  }
}

/// The share of routing in a layer's forward, by softmax and by Sinkhorn.
inline void routing_row(CpuRun& run) {
  LayerShape s = usual_shape(run);
  s.tokens = run.size(16384, 256);
  s.experts = run.size(64, 16);
  for (const int threads : run.options.threads) {
    Workers on(threads);
    ClockedLayer softmax(on.backend, s, moxie::TopKRouter{.k = s.choices});
    ClockedLayer sinkhorn(on.backend, s,
                          moxie::SinkhornTopKRouter{.k = s.choices, .iterations = 20});
    StageTimes of_softmax, of_sinkhorn;
    const auto timed = [](ClockedLayer& layer, StageTimes& times) {
      return Timed{[&layer, &times, counted = false]() mutable {
        layer.forward();
        if (counted) times.add(layer.clock());
        counted = true;
      }};
    };
    times_in_turn(run.few_rounds(), {timed(softmax, of_softmax), timed(sinkhorn, of_sinkhorn)});
    const auto forward_stages = static_cast<std::size_t>(Stage::forward_rest) + 1;
    of_softmax.report(run.report, "routing/router:softmax/" + axes_of(s), threads, forward_stages);
    of_sinkhorn.report(run.report, "routing/router:sinkhorn/" + axes_of(s), threads,
                       forward_stages);
    Bar bar{.what = "share of softmax top-2 routing and dispatch maps in the layer's forward",
            .threads = threads,
            .direction = Direction::at_most,
            .limit = 0.04,
            .ratio = of_softmax.routing_share()};
    run.report.add(bar);
    bar.what = "share of Sinkhorn routing (20 iterations) and maps in the layer's forward";
    bar.limit = 0.12;
    bar.ratio = of_sinkhorn.routing_share();
    run.report.add(bar);
  }
}

}  // namespace bench
