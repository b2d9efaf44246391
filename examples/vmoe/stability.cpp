#include "stability.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>

#include "data/shuffle.hpp"
#include "data/views.hpp"
#include "data/warp.hpp"
#include "evaluator.hpp"
#include "moxie/robust/discontinuities.hpp"
#include "moxie/robust/prediction_change.hpp"
#include "moxie/routing/routing_change.hpp"
#include "moxie/vision/patch_correspondence.hpp"
#include "moxie/vision/stacked_pairs.hpp"
#include "session.hpp"
#include "trained_model.hpp"

namespace vmoe {
namespace {

using moxie::RoutingChange;
using moxie::TokenExperts;
using nlohmann::json;

constexpr std::uint64_t images_stream = moxie::stream_id("vmoe stability images");
constexpr std::uint64_t crop_stream = moxie::stream_id("vmoe stability crops");

struct Checkpoint {
  std::filesystem::path file;
  CheckpointInfo info;
};

void require_alike(const Checkpoint& first, const Checkpoint& other) {
  const ImageShape& a = first.info.image;
  const ImageShape& b = other.info.image;
  if (a != b || first.info.classes != other.info.classes)
    moxie::throw_config("vmoe stability: '", other.file.string(), "' is for images of ", b.height,
                        "x", b.width, "x", b.channels, " in ", other.info.classes.size(),
                        " classes, expected ", a.height, "x", a.width, "x", a.channels, " in ",
                        first.info.classes.size(), " and their names, as '", first.file.string(),
                        "'");
}

/// The test images that are looked at, with their numbers.
struct Sample {
  std::vector<std::int32_t> numbers;
  ImageSet images;
};
Sample draw_sample(const ImageSet& all, Index wanted, std::uint64_t seed) {
  Sample out;
  out.numbers = shuffled(all.count, {seed, 0, images_stream});
  if (wanted > 0 && wanted < all.count) out.numbers.resize(to_size(wanted));
  out.images.count = static_cast<Index>(out.numbers.size());
  out.images.shape = all.shape;
  for (const std::int32_t i : out.numbers) {
    const std::uint8_t* image = all.image(i);
    out.images.pixels.insert(out.images.pixels.end(), image, image + all.shape.values());
    out.images.labels.push_back(all.labels[to_size(i)]);
  }
  return out;
}

/// What a model makes of all images once.
struct Answer {
  std::vector<double> probability;  ///< of the true class
  std::vector<std::int32_t> prediction;
  std::vector<TokenExperts> layers;  ///< of all images
};

void append(const TokenExperts& from, Index tokens, TokenExperts& to) {
  const auto before = static_cast<Index>(to.expert.size());
  const auto entries = static_cast<Index>(from.first[to_size(tokens)]);
  to.expert.insert(to.expert.end(), from.expert.begin(), from.expert.begin() + entries);
  to.served.insert(to.served.end(), from.served.begin(), from.served.begin() + entries);
  for (Index t = 1; t <= tokens; ++t) to.first.push_back(before + from.first[to_size(t)]);
}

/// One trained model and the images.
class Subject {
 public:
  Subject(const Checkpoint& checkpoint, const Sample& sample, Index threads)
      : info_(checkpoint.info),
        options_(alone(info_.options)),
        images_(sample.images),
        plan_(plan_model(options_, info_.image, static_cast<Index>(info_.classes.size()))),
        pool_(thread_count(threads)),
        backend_(pool_),
        model_(make_model(backend_, options_, plan_)),
        batch_(std::min(options_.batch, images_.count)),
        evaluator_(model_, plan_, options_.loss == "sigmoid", 1, batch_),
        inputs_(to_size(batch_ * model_.input_width())) {
    moxie::load_checkpoint(checkpoint.file, model_.parameters());
  }

  const Options& options() const { return options_; }
  const moxie::VitConfig& vit() const { return plan_.vit; }
  const CheckpointInfo& info() const { return info_; }

  /// write(image, inputs) makes the inputs of each image; threads call it.
  template <class F>
  Answer answer(const F& write) {
    Answer out;
    for (Index first = 0; first < images_.count; first += batch_) {
      const Index count = std::min(batch_, images_.count - first);
      const Index parts = std::min<Index>(backend_.workers(), count);
      backend_.parallel(parts, [&](Index part, int) {
        for (Index i = count * part / parts; i < count * (part + 1) / parts; ++i)
          write(first + i, inputs_.data() + i * model_.input_width());
      });
      const std::vector<float>& scores = evaluator_.scores(inputs_, count);
      for (Index i = 0; i < count; ++i)
        add_scores(scores, i, images_.labels[to_size(first + i)], out);
      moxie::TokenExpertsReader<Backend> reader(backend_, options_.k);
      evaluator_.visit(reader);
      out.layers.resize(reader.layers.size());
      for (std::size_t l = 0; l < out.layers.size(); ++l)
        append(reader.layers[l], count * vit().tokens(), out.layers[l]);
    }
    return out;
  }

 private:
  /// Each image in its own group: none takes the place of another.
  static Options alone(Options o) {
    o.group_images = 1;
    return o;
  }
  void add_scores(const std::vector<float>& scores, Index row, std::int32_t label,
                  Answer& out) const {
    const float* own = scores.data() + row * vit().classes;
    const float* best = std::max_element(own, own + vit().classes);
    out.prediction.push_back(static_cast<std::int32_t>(best - own));
    const auto score = static_cast<double>(own[label]);
    if (options_.loss == "sigmoid") {
      out.probability.push_back(1 / (1 + std::exp(-score)));
      return;
    }
    double sum = 0;
    for (Index c = 0; c < vit().classes; ++c)
      sum += std::exp(static_cast<double>(own[c]) - static_cast<double>(*best));
    out.probability.push_back(std::exp(score - static_cast<double>(*best)) / sum);
  }

  const CheckpointInfo& info_;
  Options options_;
  const ImageSet& images_;
  ModelPlan plan_;
  moxie::ThreadPool pool_;
  Backend backend_;
  Model model_;
  Index batch_;
  Evaluator evaluator_;
  std::vector<float> inputs_;
};

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
  const Normalization& n = subject.info().normalization;
  const Index channels = images.shape.channels;
  const Index model_channels = subject.vit().channels;
  std::vector<std::vector<double>> along(to_size(images.count));  // each image's probabilities
  json levels = json::array();
  Answer before = clean;
  for (Index level = 0; level <= sweep.levels; ++level) {
    const Answer own = level == 0 ? clean : subject.answer([&](Index i, float* out) {
      const std::uint8_t* pixels = images.image(i);
      for (Index v = 0; v < images.shape.values(); ++v) {
        const auto c = to_size(v % channels);
        const double x = sweep(pixels[v] / 255.0, level, sample.numbers[to_size(i)], v);
        const auto input = static_cast<float>((x - n.mean[c]) / n.std_dev[c]);
        if (model_channels == channels) {
          out[v] = input;
        } else {
          std::fill_n(out + v * model_channels, model_channels, input);
        }
      }
    });
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

json measure(const Checkpoint& checkpoint, const Sample& sample, const StabilityRequest& request) {
  Subject subject(checkpoint, sample, request.threads);
  const ImageSet& images = sample.images;
  const Options& o = subject.options();
  const std::vector<float> table =
      normalization_table(checkpoint.info.normalization, images.shape.channels);
  const Answer clean = subject.answer([&](Index i, float* out) {
    render(images.image(i), images.shape, {}, table, subject.vit().channels, out);
  });
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
  return out;
}

}  // namespace

json measure_stability(const StabilityRequest& request) {
  const moxie::NoiseSweep& sweep = request.sweep;
  if (request.checkpoints.empty())
    moxie::throw_config("vmoe stability: no path came, expected checkpoints or folders of runs");
  if (!(sweep.largest > 0) || !std::isfinite(sweep.largest) || sweep.levels < 1 ||
      request.images < 0)
    moxie::throw_config("vmoe stability: noise is ", sweep.largest, ", levels is ", sweep.levels,
                        " and images is ", request.images,
                        ", expected noise > 0, levels >= 1 and images >= 0");
  std::vector<Checkpoint> checkpoints;
  for (const std::filesystem::path& path : request.checkpoints) {
    const std::filesystem::path file = newest_checkpoint(path);
    checkpoints.push_back({file, CheckpointInfo::read(file)});
    require_alike(checkpoints.front(), checkpoints.back());
  }
  const Options& first = checkpoints.front().info.options;
  const std::string source = request.data.empty() ? first.data : request.data;
  Dataset data = load_dataset(source, {.seed = first.seed, .held_out = first.held_out});
  if (const std::uint64_t own = fingerprint(data); request.data.empty())
    for (const Checkpoint& c : checkpoints)
      if (c.info.data_fingerprint != own)
        moxie::throw_config("vmoe stability: '", c.file.string(), "' was not trained beside '",
                            source, "' as it is, or with other images held out: test images might ",
                            "be those it learned from; expected --data PATH");
  fit_test_images("vmoe stability", checkpoints.front().info, data);
  if (data.test.count < 1)
    moxie::throw_config("vmoe stability: '", source, "' has no test images, expected at least 1");
  const Sample sample = draw_sample(data.test, request.images, sweep.seed);
  json out = {{"data", source},         {"images", sample.numbers}, {"seed", sweep.seed},
              {"levels", sweep.levels}, {"noise", sweep.largest},   {"models", json::array()}};
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
    char text[80];
    std::snprintf(text, sizeof text, "discontinuities of an image: %.3f\n",
                  model.at("noise").at("discontinuities").get<double>());
    out += text;
  }
  return out;
}

}  // namespace vmoe
