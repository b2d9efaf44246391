#include "attack_pictures.hpp"

#include <algorithm>
#include <cmath>

#include "report/base64.hpp"

namespace vmoe {
namespace {

std::uint8_t byte_of(double share) {
  return static_cast<std::uint8_t>(std::lround(255 * std::clamp(share, 0.0, 1.0)));
}
template <class F>
std::string pixels(Index values, const F& share) {
  std::vector<std::uint8_t> bytes(to_size(values));
  for (Index v = 0; v < values; ++v) bytes[to_size(v)] = byte_of(share(v));
  return base64(bytes.data(), bytes.size());
}

}  // namespace

void AttackPictures::add(const Point& p) {
  if (static_cast<Index>(images_.size()) >= wanted_) return;
  const Index n = image_.values();
  const auto moved = [&](Index v) {
    return static_cast<double>(p.attacked[v]) - static_cast<double>(p.clean[v]);
  };
  double largest = 0, square = 0;
  for (Index v = 0; v < n; ++v) {
    largest = std::max(largest, std::abs(moved(v)));
    square += moved(v) * moved(v);
  }
  const double scale = largest > 0 ? 0.5 / largest : 0;
  images_.push_back(
      {{"number", p.number},
       {"label", p.label},
       {"height", image_.height},
       {"width", image_.width},
       {"channels", image_.channels},
       {"linf", largest},
       {"l2", std::sqrt(square)},
       {"scale", scale},
       {"clean", pixels(n, [&](Index v) { return static_cast<double>(p.clean[v]); })},
       {"change", pixels(n, [&](Index v) { return 0.5 + scale * moved(v); })},
       {"attacked", pixels(n, [&](Index v) { return static_cast<double>(p.attacked[v]); })},
       {"before", side(p, p.clean_scores, p.before)},
       {"after", side(p, p.attacked_scores, p.after)}});
}

/// {"prediction", "probability", "routes"}: routes[layer][patch] = experts, -1 for a dropped one.
nlohmann::json AttackPictures::side(const Point& p, const float* scores,
                                    std::span<const moxie::TokenExperts> layers) const {
  const float* best = std::max_element(scores, scores + vit_.classes);
  double sum = 0;
  for (Index c = 0; c < vit_.classes; ++c)
    sum += std::exp(static_cast<double>(scores[c]) - static_cast<double>(*best));
  nlohmann::json routes = nlohmann::json::array();
  const Index skipped = vit_.class_token() ? 1 : 0;
  for (const moxie::TokenExperts& layer : layers) {
    nlohmann::json patches = nlohmann::json::array();
    for (Index t = p.first_token + skipped; t < p.first_token + vit_.tokens(); ++t) {
      nlohmann::json chosen = nlohmann::json::array();
      const auto experts = layer.experts(t);
      for (std::size_t k = 0; k < experts.size(); ++k)
        chosen.push_back(layer.is_served(t, static_cast<Index>(k)) ? experts[k] : -1);
      patches.push_back(std::move(chosen));
    }
    routes.push_back(std::move(patches));
  }
  return {{"prediction", best - scores}, {"probability", 1 / sum}, {"routes", std::move(routes)}};
}

nlohmann::json AttackPictures::page(const nlohmann::json& figures,
                                    const std::vector<std::string>& classes,
                                    const std::vector<Index>& blocks, Index experts) const {
  return {{"figures", figures},  {"classes", classes},
          {"blocks", blocks},    {"experts", experts},
          {"patch", vit_.patch}, {"grid", {vit_.grid().down, vit_.grid().across}},
          {"images", images_}};
}

}  // namespace vmoe
