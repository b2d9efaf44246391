#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "layers.hpp"
#include "products_fixture.hpp"

namespace bench {

/// The shape that most rows are about: D 512, H 2048, E 8, K 2, T 4096.
inline LayerShape usual_shape(const CpuRun& run) {
  return {run.size(4096, 256), 8, 2, run.size(512, 32), run.size(2048, 64)};
}
inline std::string axes_of(const LayerShape& s) {
  return "tokens:" + std::to_string(s.tokens) + "/experts:" + std::to_string(s.experts) +
         "/k:" + std::to_string(s.choices);
}

/// A layer against its products alone, and its backward against its forward.
inline void layer_row(CpuRun& run) {
  const LayerShape s = usual_shape(run);
  for (const int threads : run.options.threads) {
    Workers on(threads);
    LayerWithMemory layer = make_moe_layer(on.backend, s);
    const ProductsFixture fixture(
        {s.experts, s.tokens * s.choices / s.experts, s.choices, s.width, s.hidden});
    OwnProducts products(fixture.problem(), on.pool, OwnForm::as_perceptrons);
    const std::string name = "layer/net:layer/" + axes_of(s);
    const std::string of_products = "layer/net:products/" + axes_of(s);
    const double bare = fixture.problem().forward_flops();
    const auto times = run.measure(
        run.rounds(),
        {forward_of(name + "/pass:forward", on, layer, s.flops()),
         backward_of(name + "/pass:backward", on, layer, s.flops()),
         {of_products + "/pass:forward", on, {[&] { products.forward(); }}, bare},
         {of_products + "/pass:backward", on, {[&] { products.backward(); }}, 2 * bare}});
    run.report.add(Bar{.what = "whole layer forward against its two bare products",
                       .threads = threads,
                       .direction = Direction::at_most,
                       .limit = 1.08,
                       .ratio = ratio_of(times[0], times[2])});
    run.report.add(Bar{.what = "backward against forward, whole layer",
                       .threads = threads,
                       .direction = Direction::at_most,
                       .limit = 2.2,
                       .ratio = ratio_of(times[1], times[0])});
  }
}

/// One choice of eight experts against the dense network of equal active FLOPs: an Mlp, or, where that is faster, a layer of
/// one expert.
inline void dense_row(CpuRun& run) {
  for (const int threads : run.options.threads) {
    Workers on(threads);
    double worst_forward = 0;
    double worst_both = 0;
    for (const Index tokens : {run.size(1024, 64), run.size(4096, 128), run.size(16384, 256)}) {
      LayerShape s = usual_shape(run);
      s.tokens = tokens;
      s.choices = 1;
      LayerWithMemory layer = make_moe_layer(on.backend, s);
      LayerWithMemory dense = make_dense_layer(on.backend, s);
      LayerShape of_one = s;
      of_one.experts = 1;
      LayerWithMemory one = make_moe_layer(on.backend, of_one);
      const std::string of_dense = "dense/net:perceptron/tokens:" + std::to_string(tokens);
      const std::string of_single = "dense/net:one_expert/tokens:" + std::to_string(tokens);
      const std::string of_layer = "dense/net:layer/" + axes_of(s);
      const auto times = run.measure(
          run.rounds(), {forward_of(of_layer + "/pass:forward", on, layer, s.flops()),
                         forward_of(of_dense + "/pass:forward", on, dense, s.flops()),
                         forward_of(of_single + "/pass:forward", on, one, of_one.flops()),
                         both_of(of_layer + "/pass:both", on, layer, s.flops()),
                         both_of(of_dense + "/pass:both", on, dense, s.flops()),
                         both_of(of_single + "/pass:both", on, one, of_one.flops())});
      worst_forward =
          std::max({worst_forward, ratio_of(times[0], times[1]), ratio_of(times[0], times[2])});
      worst_both =
          std::max({worst_both, ratio_of(times[3], times[4]), ratio_of(times[3], times[5])});
    }
    Bar bar{.what = "K = 1, E = 8 against the dense FFN, worst of three T, forward",
            .threads = threads,
            .direction = Direction::at_most,
            .limit = 1.12,
            .ratio = worst_forward};
    run.report.add(bar);
    bar.what = "K = 1, E = 8 against the dense FFN, worst of three T, forward and backward";
    bar.ratio = worst_both;
    run.report.add(bar);
  }
}

/// More experts at equal active FLOPs.
inline void experts_row(CpuRun& run) {
  for (const int threads : run.options.threads) {
    Workers on(threads);
    LayerShape s = usual_shape(run);
    s.tokens = run.size(16384, 256);
    std::vector<std::unique_ptr<LayerWithMemory>> layers;
    std::vector<Candidate> all;
    for (const Index experts : {Index{8}, run.size(64, 16), run.size(256, 32)}) {
      s.experts = experts;
      layers.push_back(std::make_unique<LayerWithMemory>(make_moe_layer(on.backend, s)));
      const std::string name = "experts/" + axes_of(s);
      all.push_back(forward_of(name + "/pass:forward", on, *layers.back(), s.flops()));
      all.push_back(both_of(name + "/pass:both", on, *layers.back(), s.flops()));
    }
    const auto times = run.measure(run.few_rounds(), all);
    Bar bar{.what = "the most experts against E = 8 at equal active FLOPs, forward",
            .threads = threads,
            .direction = Direction::at_most,
            .limit = 1.25,
            .ratio = std::max(ratio_of(times[2], times[0]), ratio_of(times[4], times[0]))};
    run.report.add(bar);
    bar.what = "the most experts against E = 8 at equal active FLOPs, forward and backward";
    bar.ratio = std::max(ratio_of(times[3], times[1]), ratio_of(times[5], times[1]));
    run.report.add(bar);
  }
}

/// Time per token from few tokens to many, of a narrower layer (D 128, H 512): the widest has half a million rows.
inline void tokens_row(CpuRun& run) {
  for (const int threads : run.options.threads) {
    Workers on(threads);
    for (const bool backward : {false, true}) {
      std::vector<std::unique_ptr<LayerWithMemory>> layers;
      std::vector<Candidate> all;
      std::vector<Index> counts = {1024, 4096, 16384, 65536, 262144};
      if (run.options.quick) counts = {64, 128, 256};
      for (const Index tokens : counts) {
        const LayerShape s{tokens, 8, 2, run.size(128, 32), run.size(512, 64)};
        layers.push_back(std::make_unique<LayerWithMemory>(make_moe_layer(on.backend, s)));
        LayerWithMemory& layer = *layers.back();
        // Few tokens several times: each candidate lasts long enough for the clock.
        const int times = static_cast<int>(std::min<Index>(16, counts.back() / tokens));
        all.push_back({"tokens/" + axes_of(s) + (backward ? "/pass:both" : "/pass:forward"),
                       on,
                       {[&layer, times, backward] {
                         for (int i = 0; i < times; ++i) layer.run(backward);
                       }},
                       s.flops() * (backward ? 3 : 1),
                       static_cast<double>(tokens),
                       times});
      }
      const auto seconds = run.measure(run.few_rounds(), all);
      // Of each round, the slowest size over the fastest.
      std::vector<double> spread;
      for (std::size_t round = 0; round < seconds[0].size(); ++round) {
        double least = 0;
        double most = 0;
        for (std::size_t i = 0; i < all.size(); ++i) {
          const double per_token = seconds[i][round] / all[i].tokens;
          least = i == 0 ? per_token : std::min(least, per_token);
          most = std::max(most, per_token);
        }
        spread.push_back(most / least);
      }
      run.report.add(
          Bar{.what = std::string("time per token from the fewest tokens to the most, ") +
                      (backward ? "forward and backward" : "forward"),
              .threads = threads,
              .direction = Direction::at_most,
              .limit = 1.15,
              .ratio = median(spread)});
    }
  }
}

/// Two threads against one, whatever --threads says.
inline void threads_row(CpuRun& run) {
  const LayerShape s = usual_shape(run);
  Workers one(1);
  Workers two(2);
  for (const char* const load : {"uniform", "zipf"}) {
    LayerWithMemory alone = make_moe_layer(one.backend, s, load);
    LayerWithMemory together = make_moe_layer(two.backend, s, load);
    const std::string name = "threads/" + axes_of(s) + "/load:" + load;
    const auto times =
        run.measure(run.rounds(), {forward_of(name + "/pass:forward", one, alone, s.flops()),
                                   forward_of(name + "/pass:forward", two, together, s.flops()),
                                   both_of(name + "/pass:both", one, alone, s.flops()),
                                   both_of(name + "/pass:both", two, together, s.flops())});
    Bar bar{.what = std::string("two threads against one, ") + load + " load, forward",
            .threads = 2,
            .limit = std::string_view(load) == "zipf" ? 1.6 : 1.85,
            .ratio = ratio_of(times[0], times[1])};
    run.report.add(bar);
    bar.what += " and backward";
    bar.ratio = ratio_of(times[2], times[3]);
    run.report.add(bar);
  }
}

}  // namespace bench
