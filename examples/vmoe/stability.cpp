#include "stability.hpp"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>

#include "attacked_images.hpp"
#include "data/views.hpp"
#include "data/warp.hpp"
#include "moxie/robust/discontinuities.hpp"
#include "moxie/robust/prediction_change.hpp"
#include "moxie/routing/routing_change.hpp"
#include "moxie/vision/patch_correspondence.hpp"
#include "moxie/vision/stacked_pairs.hpp"
#include "subject.hpp"

namespace vmoe {
namespace {

using moxie::RoutingChange;
using moxie::TokenExperts;
using nlohmann::json;

constexpr std::uint64_t crop_stream = moxie::stream_id("vmoe stability crops");

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) /
         static_cast<double>(std::max<std::size_t>(values.size(), 1));
}

json to_json(const RoutingChange& change) {
  return {{"top1", change.top1}, {"set", change.set}, {"iou", change.iou}};
}

/// [{"block", "top1", "set", "iou"}] of each layer.
template <class F>
json layer_changes(const Subject& subject, std::size_t layers, const F& change) {
  json out = json::array();
  for (std::size_t l = 0; l < layers; ++l) {
    json layer = to_json(change(l));
    layer["block"] = subject.vit().moe_blocks[l];
    out.push_back(std::move(layer));
  }
  return out;
}
json layer_changes(const Subject& subject, const Answer& before, const Answer& after) {
  return layer_changes(subject, before.layers.size(), [&](std::size_t l) {
    return moxie::routing_change(before.layers[l], after.layers[l]);
  });
}

json figures_of(const Answer& answer, const Answer& clean, const ImageSet& images) {
  double correct = 0;
  for (std::size_t i = 0; i < answer.prediction.size(); ++i)
    correct += answer.prediction[i] == images.labels[i] ? 1 : 0;
  return {{"accuracy", correct / static_cast<double>(images.count)},
          {"true_class_probability", mean(answer.probability)},
          {"prediction_change", moxie::prediction_change(clean.prediction, answer.prediction)}};
}

json measure_noise(Subject& subject, const Sample& sample, const moxie::NoiseSweep& sweep,
                   const Answer& clean) {
  const ImageSet& images = sample.images;
  std::vector<std::vector<double>> along(to_size(images.count));  // each image's probabilities
  json levels = json::array();
  Answer before = clean;
  for (Index level = 0; level <= sweep.levels; ++level) {
    const Answer own = level == 0 ? clean : subject.answer(sweep, level);
    json entry = figures_of(own, clean, images);
    entry["sigma"] = sweep.sigma(level);
    entry["layers"] = layer_changes(subject, clean, own);
    entry["from_previous"] = {
        {"prediction_change", moxie::prediction_change(before.prediction, own.prediction)},
        {"layers", layer_changes(subject, before, own)}};
    levels.push_back(std::move(entry));
    for (std::size_t i = 0; i < along.size(); ++i) along[i].push_back(own.probability[i]);
    before = own;
  }
  json counts = json::array();
  double sum = 0;
  for (const std::vector<double>& probabilities : along) {
    const Index count = moxie::discontinuities(probabilities);
    sum += static_cast<double>(count);
    counts.push_back(count);
  }
  return {{"levels", std::move(levels)},
          {"discontinuities", sum / static_cast<double>(images.count)},
          {"discontinuities_of_images", std::move(counts)}};
}

/// Of other views of the images; make(image, pixels) makes one and says where it looks.
template <class F>
json measure_view(Subject& subject, const ImageSet& images, const Answer& clean, const F& make) {
  const moxie::VitConfig& vit = subject.vit();
  const std::vector<float> table =
      normalization_table(subject.info().normalization, images.shape.channels);
  std::vector<moxie::ImageView> views(to_size(images.count));
  const Answer own = subject.answer([&](Index i, float* out) {
    std::vector<std::uint8_t> pixels(to_size(images.shape.values()));
    views[to_size(i)] = make(i, Pixels{pixels, images.shape});
    render(pixels.data(), images.shape, {}, table, vit.channels, out);
  });
  const moxie::ImageView whole = moxie::ImageView::crop(
      {0, 0, static_cast<double>(images.shape.height), static_cast<double>(images.shape.width)},
      images.shape.height, images.shape.width);
  const moxie::TokenLayout layout{.tokens_per_image = vit.tokens(),
                                  .class_token = vit.class_token()};
  std::vector<RoutingChange> sums(clean.layers.size());
  std::vector<std::int32_t> pairs;
  double matched = 0;
  for (Index i = 0; i < images.count; ++i) {
    const auto partners = moxie::patch_correspondence(views[to_size(i)], whole, vit.patch,
                                                      moxie::PatchValidity::content);
    pairs.clear();
    moxie::append_pairs(partners, layout, i, i, vit.class_token(), pairs);
    matched += static_cast<double>(pairs.size() / 2) / static_cast<double>(vit.tokens());
    for (std::size_t l = 0; l < sums.size(); ++l) {
      const RoutingChange change = moxie::routing_change(own.layers[l], clean.layers[l], pairs);
      sums[l].top1 += change.top1;
      sums[l].set += change.set;
      sums[l].iou += change.iou;
    }
  }
  const auto count = static_cast<double>(images.count);
  json out = figures_of(own, clean, images);
  out["matched"] = matched / count;
  out["layers"] = layer_changes(subject, sums.size(), [&](std::size_t l) {
    return RoutingChange{sums[l].top1 / count, sums[l].set / count, sums[l].iou / count};
  });
  return out;
}

/// Under PGD on the cross-entropy, from a random point of the ball.
json measure_pgd(Subject& subject, const Sample& sample, const Answer& clean,
                 const StabilityRequest& request) {
  const moxie::Pgd pgd{
      .threat = {.eps = request.pgd}, .step = request.pgd / 4, .steps = request.pgd_steps};
  const Answer own = subject.answer(attacked_images(subject, sample, pgd, request.sweep.seed));
  json out = figures_of(own, clean, sample.images);
  double robust = 0;
  for (std::size_t i = 0; i < own.prediction.size(); ++i) {
    const std::int32_t label = sample.images.labels[i];
    robust += clean.prediction[i] == label && own.prediction[i] == label ? 1 : 0;
  }
  out["accuracy"] = robust / static_cast<double>(sample.images.count);
  out["eps"] = request.pgd;
  out["steps"] = request.pgd_steps;
  out["layers"] = layer_changes(subject, clean, own);
  return out;
}

json measure(const Checkpoint& checkpoint, const Sample& sample, const StabilityRequest& request) {
  Subject subject(checkpoint, sample, request.threads);
  const ImageSet& images = sample.images;
  const Options& o = subject.options();
  const Answer clean = subject.answer(request.sweep, 0);
  const moxie::Random crops(request.sweep.seed, 0, crop_stream);
  json out = {{"checkpoint", checkpoint.file.string()},
              {"step", checkpoint.info.step},
              {"seed", o.seed},
              {"moe_blocks", json::array()},
              {"noise", measure_noise(subject, sample, request.sweep, clean)}};
  if (!clean.layers.empty()) {
    out["moe_blocks"] = subject.vit().moe_blocks;
    out["router"] = o.router;
    out["experts"] = o.experts;
    out["k"] = o.k;
    out["prc"] = o.prc;
  }
  out["crop"] = measure_view(subject, images, clean, [&](Index i, const Pixels& view) {
    Draws draws(crops, static_cast<std::uint64_t>(sample.numbers[to_size(i)]), 0);
    const moxie::ImageBox box = draw_crop(0.6, 1, images.shape, draws);
    crop_resize(images.image(i), box, view);
    return moxie::ImageView::crop(box, images.shape.height, images.shape.width);
  });
  out["flip"] = measure_view(subject, images, clean, [&](Index i, const Pixels& view) {
    std::copy_n(images.image(i), images.shape.values(), view.values.data());
    const auto width = static_cast<double>(images.shape.width);
    const auto mirror = moxie::ViewMap::flip_horizontal(width);
    warp(view, mirror, 0);
    const moxie::ImageBox all{0, 0, static_cast<double>(images.shape.height), width};
    return moxie::ImageView::crop(all, images.shape.height, images.shape.width).then(mirror);
  });
  if (request.pgd > 0) out["pgd"] = measure_pgd(subject, sample, clean, request);
  return out;
}

}  // namespace

json measure_stability(const StabilityRequest& request) {
  const moxie::NoiseSweep& sweep = request.sweep;
  const char* const who = "vmoe stability";
  check_sweep(who, sweep);
  if (!(request.pgd >= 0 && request.pgd <= 1) || request.pgd_steps < 1)
    moxie::throw_config(who, ": pgd is ", request.pgd, " and pgd-steps is ", request.pgd_steps,
                        ", expected a radius from 0 to 1 and at least 1 step");
  const std::vector<Checkpoint> checkpoints = read_checkpoints(who, request.checkpoints);
  const Sample sample = draw_sample(who, checkpoints, request.data, request.images, sweep.seed);
  json out = {{"data", test_data_path(checkpoints, request.data)},
              {"images", sample.numbers},
              {"seed", sweep.seed},
              {"levels", sweep.levels},
              {"noise", sweep.largest},
              {"models", json::array()}};
  for (const Checkpoint& c : checkpoints) out["models"].push_back(measure(c, sample, request));
  return out;
}

std::string stability_text(const json& figures) {
  std::string out = moxie::detail::message(figures.at("images").size(), " test images of '",
                                           figures.at("data").get<std::string>(), "', seed ",
                                           figures.at("seed").dump(), "; all in %\n");
  const auto add_row = [&out](const std::string& name, const json& row) {
    char text[160];
    std::snprintf(text, sizeof text, "%12s %9.2f %9.2f %11.2f", name.c_str(),
                  100 * row.at("accuracy").get<double>(),
                  100 * row.at("true_class_probability").get<double>(),
                  100 * row.at("prediction_change").get<double>());
    out += text;
    const json& layers = row.at("layers");
    for (const char* kind : {"top1", "set", "iou"}) {
      double sum = 0;
      for (const json& layer : layers) sum += layer.at(kind).get<double>();
      std::snprintf(text, sizeof text, " %8.2f", 100 * sum / static_cast<double>(layers.size()));
      out += layers.empty() ? "        -" : text;
    }
    out += '\n';
  };
  for (const json& model : figures.at("models")) {
    out += '\n';
    out += model.at("checkpoint").get<std::string>();
    out += '\n';
    out +=
        "       noise  accuracy   p(true)  prediction   routes changed\n"
        "                                     changed    top-1      set  1 - IoU\n";
    for (const json& level : model.at("noise").at("levels")) {
      char sigma[32];
      std::snprintf(sigma, sizeof sigma, "%.4f", level.at("sigma").get<double>());
      add_row(sigma, level);
    }
    add_row("crop", model.at("crop"));
    add_row("flip", model.at("flip"));
    if (model.contains("pgd")) add_row("pgd", model.at("pgd"));
    char text[80];
    std::snprintf(text, sizeof text, "discontinuities of an image: %.3f\n",
                  model.at("noise").at("discontinuities").get<double>());
    out += text;
  }
  return out;
}

}  // namespace vmoe
