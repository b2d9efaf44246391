#include "layer_figures.hpp"

#include <nlohmann/json.hpp>
#include <numeric>

namespace vmoe {
namespace {

double sum(const std::vector<double>& v) { return std::accumulate(v.begin(), v.end(), 0.0); }

}  // namespace

double dropped_share(const std::vector<moxie::RoutingStatistics>& layers) {
  double selected = 0;
  double dropped = 0;
  for (const moxie::RoutingStatistics& layer : layers) {
    selected += sum(layer.selected);
    dropped += layer.dropped();
  }
  return selected > 0 ? dropped / selected : 0;
}

nlohmann::json layer_figures(const std::vector<moxie::RoutingStatistics>& layers,
                             const std::vector<moxie::Index>& blocks) {
  nlohmann::json out = nlohmann::json::array();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const moxie::RoutingStatistics& layer = layers[i];
    const double all = sum(layer.kept);
    nlohmann::json load = nlohmann::json::array();
    for (const double n : layer.kept) load.push_back(all > 0 ? n / all : 0);
    out.push_back({{"block", blocks[i]},
                   {"load", load},
                   {"dropped", layer.drop_rate()},
                   {"load_cv", layer.coefficient_of_variation()},
                   {"max_violation", layer.max_violation()},
                   {"dead_experts", layer.dead_experts()},
                   {"gate_entropy", layer.gate_entropy},
                   {"margin", layer.margin},
                   {"experts_per_token", layer.experts_per_token()},
                   {"marginal_error", layer.marginal_error},
                   {"unrouted", layer.unrouted}});
  }
  return out;
}

}  // namespace vmoe
