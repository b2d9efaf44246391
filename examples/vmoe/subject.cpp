#include "subject.hpp"

#include <algorithm>
#include <cmath>

#include "data/augment.hpp"
#include "data/shuffle.hpp"
#include "session.hpp"
#include "trained_model.hpp"

namespace vmoe {
namespace {

constexpr std::uint64_t sample_stream = moxie::stream_id("vmoe stability images");

void require_alike(const char* who, const Checkpoint& first, const Checkpoint& other) {
  const ImageShape& a = first.info.image;
  const ImageShape& b = other.info.image;
  const std::vector<std::string>& names = first.info.classes;
  const std::vector<std::string>& own = other.info.classes;
  if (a != b || names.size() != own.size())
    moxie::throw_config(who, ": '", other.file.string(), "' is for images of ", b.height, "x",
                        b.width, "x", b.channels, " in ", own.size(), " classes, expected ",
                        a.height, "x", a.width, "x", a.channels, " in ", names.size(), ", as '",
                        first.file.string(), "'");
  for (std::size_t c = 0; c < names.size(); ++c)
    if (names[c] != own[c])
      moxie::throw_config(who, ": class ", c, " of '", other.file.string(), "' is '", own[c],
                          "', expected '", names[c], "', as of '", first.file.string(), "'");
}

/// Slots of soft experts are parameters of a group.
void require_own_groups(const char* who, const Checkpoint& checkpoint) {
  const Options& o = checkpoint.info.options;
  if (!o.dense && o.router == "soft" && o.group_images != 1)
    moxie::throw_config(who, ": '", checkpoint.file.string(), "' has soft experts with slots for ",
                        o.group_images, " images together, expected 1 (--group-images)");
}

void append(const moxie::TokenExperts& from, Index tokens, moxie::TokenExperts& to) {
  const auto before = static_cast<Index>(to.expert.size());
  const auto entries = static_cast<Index>(from.first[to_size(tokens)]);
  to.expert.insert(to.expert.end(), from.expert.begin(), from.expert.begin() + entries);
  to.served.insert(to.served.end(), from.served.begin(), from.served.begin() + entries);
  for (Index t = 1; t <= tokens; ++t) to.first.push_back(before + from.first[to_size(t)]);
}

}  // namespace

std::vector<Checkpoint> read_checkpoints(const char* who,
                                         const std::vector<std::filesystem::path>& paths) {
  if (paths.empty())
    moxie::throw_config(who, ": no path came, expected checkpoints or folders of runs");
  std::vector<Checkpoint> out;
  for (const std::filesystem::path& path : paths) {
    const std::filesystem::path file = newest_checkpoint(path);
    out.push_back({file, CheckpointInfo::read(file)});
    require_alike(who, out.front(), out.back());
    require_own_groups(who, out.back());
  }
  return out;
}

std::string test_data_path(const std::vector<Checkpoint>& checkpoints, const std::string& data) {
  return data.empty() ? checkpoints.front().info.options.data : data;
}

Sample draw_sample(const char* who, const std::vector<Checkpoint>& checkpoints,
                   const std::string& data, Index wanted, std::uint64_t seed) {
  if (wanted < 0) moxie::throw_config(who, ": images is ", wanted, ", expected at least 0");
  const Options& first = checkpoints.front().info.options;
  const std::string source = test_data_path(checkpoints, data);
  Dataset all = load_dataset(source, {.seed = first.seed, .held_out = first.held_out});
  if (const std::uint64_t own = fingerprint(all); data.empty())
    for (const Checkpoint& c : checkpoints)
      if (c.info.data_fingerprint != own)
        moxie::throw_config(who, ": '", c.file.string(), "' was not trained beside '", source,
                            "' as it is, or with other images held out: test images might be ",
                            "those it learned from; expected --data PATH");
  fit_test_images(who, checkpoints.front().info, all);
  const ImageSet& test = all.test;
  if (test.count < 1)
    moxie::throw_config(who, ": '", source, "' has no test images, expected at least 1");
  Sample out;
  out.classes = std::move(all.classes);
  out.numbers = shuffled(test.count, {seed, 0, sample_stream});
  if (wanted > 0 && wanted < test.count) out.numbers.resize(to_size(wanted));
  out.images.count = static_cast<Index>(out.numbers.size());
  out.images.shape = test.shape;
  for (const std::int32_t i : out.numbers) {
    const std::uint8_t* image = test.image(i);
    out.images.pixels.insert(out.images.pixels.end(), image, image + test.shape.values());
    out.images.labels.push_back(test.labels[to_size(i)]);
  }
  return out;
}

void check_sweep(const char* who, const moxie::NoiseSweep& sweep) {
  if (!(sweep.largest > 0) || !std::isfinite(sweep.largest) || sweep.levels < 1)
    moxie::throw_config(who, ": noise is ", sweep.largest, " and levels is ", sweep.levels,
                        ", expected noise > 0 and levels >= 1");
}

Subject::Subject(const Checkpoint& checkpoint, const Sample& sample, Index threads)
    : info_(checkpoint.info),
      sample_(sample),
      options_(in_groups_of_one(info_.options)),
      plan_(plan_model(options_, info_.image, static_cast<Index>(info_.classes.size()))),
      pool_(thread_count(threads)),
      backend_(make_backend(pool_, options_)),
      model_(make_model(backend_, options_, plan_)),
      batch_(std::min(options_.batch, sample.images.count)),
      evaluator_(model_, pool_, plan_, options_.loss == "sigmoid", 1, batch_),
      inputs_(to_size(batch_ * model_.input_width())) {
  moxie::load_checkpoint(checkpoint.file, model_.parameters());
}

Answer Subject::answer(const Write& write) {
  const ImageSet& images = sample_.images;
  Answer out;
  for (Index first = 0; first < images.count; first += batch_) {
    const Index count = std::min(batch_, images.count - first);
    const Index parts = std::min<Index>(pool_.workers(), count);
    pool_.run(parts, [&](Index part, int) {
      for (Index i = count * part / parts; i < count * (part + 1) / parts; ++i)
        write(first + i, inputs_.data() + i * model_.input_width());
    });
    const std::vector<float>& scores = evaluator_.scores(inputs_, count);
    for (Index i = 0; i < count; ++i) add_scores(scores, i, images.labels[to_size(first + i)], out);
    moxie::TokenExpertsReader<Backend> reader(backend_, options_.k);
    evaluator_.visit(reader);
    out.layers.resize(reader.layers.size());
    for (std::size_t l = 0; l < out.layers.size(); ++l)
      append(reader.layers[l], count * vit().tokens(), out.layers[l]);
  }
  return out;
}

template <class F>
void Subject::write_inputs(const F& pixel, float* inputs) const {
  const Index channels = sample_.images.shape.channels;
  const Index copies = vit().channels / channels;  // grey images may become 3 equal channels
  const Normalization& n = info_.normalization;
  for (Index v = 0; v < sample_.images.shape.values(); ++v) {
    const auto c = to_size(v % channels);
    const auto input = static_cast<float>((pixel(v) - n.mean[c]) / n.std_dev[c]);
    std::fill_n(inputs + v * copies, copies, input);
  }
}

Answer Subject::answer(const moxie::NoiseSweep& sweep, Index level) {
  const ImageSet& images = sample_.images;
  const std::vector<float> table = normalization_table(info_.normalization, images.shape.channels);
  return answer([&](Index i, float* out) {
    const std::uint8_t* pixels = images.image(i);
    if (level == 0) return render(pixels, images.shape, {}, table, vit().channels, out);
    const auto noisy = [&](Index v) {
      return sweep(pixels[v] / 255.0, level, sample_.numbers[to_size(i)], v);
    };
    write_inputs(noisy, out);
  });
}

Answer Subject::answer(const std::vector<float>& pixels) {
  const Index values = sample_.images.shape.values();
  return answer([&](Index i, float* out) {
    const float* own = pixels.data() + i * values;
    write_inputs([own](Index v) { return static_cast<double>(own[v]); }, out);
  });
}

void Subject::add_scores(const std::vector<float>& scores, Index row, std::int32_t label,
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

}  // namespace vmoe
