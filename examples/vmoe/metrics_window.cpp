#include "metrics_window.hpp"

#include <nlohmann/json.hpp>

namespace vmoe {
namespace {

template <class W, class F>
void visit(W& w, const F& f) {
  f("steps", w.steps);
  f("images", w.images);
  f("loss", w.loss);
  f("regularizers", w.regularizers);
  f("correct", w.correct);
  f("chosen", w.chosen);
  f("dropped", w.dropped);
  f("began", w.began);
}

}  // namespace

void MetricsWindow::add(double step_loss, double step_correct, double step_images,
                        const std::vector<moxie::RoutingStatistics>& layers,
                        const LossSums& step_losses) {
  steps += 1;
  images += step_images;
  loss += step_loss;
  correct += step_correct;
  for (const moxie::RoutingStatistics& layer : layers) {
    regularizers += layer.regularizers;
    for (const double n : layer.selected) chosen += n;
    dropped += layer.dropped();
  }
  for (const auto& [name, value] : step_losses) losses[name] += value;
}

LossSums MetricsWindow::mean_losses() const {
  LossSums means = losses;
  for (auto& item : means) item.second /= steps;
  return means;
}

void to_json(nlohmann::json& json, const MetricsWindow& window) {
  json = nlohmann::json::object();
  visit(window, [&](const char* name, double value) { json[name] = value; });
  json["losses"] = window.losses;
}

void from_json(const nlohmann::json& json, MetricsWindow& window) {
  visit(window, [&](const char* name, double& value) { json.at(name).get_to(value); });
  // Checkpoints of earlier versions have none.
  if (json.contains("losses")) json["losses"].get_to(window.losses);
}

}  // namespace vmoe
