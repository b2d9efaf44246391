#include "load_counter.hpp"

#include <nlohmann/json.hpp>
#include <numeric>

namespace vmoe {

void LoadCounter::sparse(const moxie::SparseRouting<Backend>& r) {
  if (next_ == 0) regularizers_ = 0;
  if (next_ == layers_.size()) {
    layers_.emplace_back();
    layers_.back().kept.assign(to_size(r.shape.experts), 0);
  }
  Layer& layer = layers_[next_++];
  for (Index a = 0; a < r.choice.size(); ++a) {
    if (r.choice.data[a] < 0) continue;
    layer.chosen += 1;
    if (r.row.data[a] >= 0) {
      layer.kept[to_size(r.choice.data[a])] += 1;
    } else {
      layer.dropped += 1;
    }
  }
}

void LoadCounter::losses(std::span<const std::string_view> /*names*/,
                         moxie::ConstVector<Backend> values) {
  for (Index i = 0; i < values.size; ++i) regularizers_ += static_cast<double>(values[i]);
}

double LoadCounter::dropped_share() const {
  double chosen = 0;
  double dropped = 0;
  for (const Layer& layer : layers_) {
    chosen += layer.chosen;
    dropped += layer.dropped;
  }
  return chosen > 0 ? dropped / chosen : 0;
}

nlohmann::json LoadCounter::to_json(const std::vector<Index>& blocks) const {
  nlohmann::json out = nlohmann::json::array();
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    const double all = std::accumulate(layer.kept.begin(), layer.kept.end(), 0.0);
    nlohmann::json load = nlohmann::json::array();
    for (const double n : layer.kept) load.push_back(all > 0 ? n / all : 0);
    out.push_back({{"block", blocks[i]}, {"load", load}, {"dropped", layer.dropped_share()}});
  }
  return out;
}

}  // namespace vmoe
