#include "robust_check.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/batch.hpp"
#include "data/shuffle.hpp"
#include "json_number.hpp"
#include "mirror.hpp"
#include "moxie/robust/metrics.hpp"
#include "moxie/train/warm_start.hpp"
#include "pixel_model.hpp"
#include "robust_options.hpp"

namespace vmoe {
namespace {

constexpr std::uint64_t check_stream = moxie::stream_id("vmoe robust check images");

/// Some images of a set, drawn by the seed.
ImageSet draw(const ImageSet& set, Index wanted, std::uint64_t seed) {
  std::vector<std::int32_t> numbers = shuffled(set.count, {seed, 0, check_stream});
  numbers.resize(to_size(wanted));
  ImageSet out;
  out.count = wanted;
  out.shape = set.shape;
  for (const std::int32_t i : numbers) {
    const std::uint8_t* image = set.image(i);
    out.pixels.insert(out.pixels.end(), image, image + set.shape.values());
    out.labels.push_back(set.labels[to_size(i)]);
  }
  return out;
}

moxie::Pgd attack_of(const Options& o) {
  moxie::Pgd pgd = training_pgd(o);
  pgd.steps = static_cast<int>(o.robust_steps);
  return pgd;
}

}  // namespace

/// A model and an attack on it.
struct RobustCheck::Part {
  Part(const char* part_name, const Model& model, const Session& s)
      : name(part_name),
        pixels(model, s.normalization, s.data.train.shape),
        attack(moxie::LayerTarget(pixels), attack_of(s.options), s.options.batch) {}

  void add(const moxie::AttackBatch<Backend>& batch, const Mirror<float>& x_adv,
           Mirror<std::int32_t>& before, Mirror<std::int32_t>& after) {
    const Index n = batch.x.rows;
    const moxie::Matrix<Backend> shaken{x_adv.data(), n, batch.x.cols};
    attack.find_correct(batch, {before.data(), n});
    attack.attack().perturb(attack.target(), batch, attack.state(), shaken);
    attack.find_correct(moxie::ConstMatrix<Backend>(shaken), batch.y, {after.data(), n});
    before.receive(n);
    after.receive(n);
    count.images += n;
    for (std::size_t i = 0; i < to_size(n); ++i) {
      count.clean += before.host[i];
      count.robust += before.host[i] * after.host[i];
    }
  }
  nlohmann::json figures() const { return {{"sa", count.sa()}, {"ra", count.ra()}}; }

  const char* name;
  PixelModel pixels;
  moxie::RunAttack<moxie::LayerTarget<PixelModel>, moxie::Pgd> attack;
  moxie::RobustCount count;
};

RobustCheck::RobustCheck(Session& session) : s_(session) {
  const Options& o = s_.options;
  const Index wanted = std::min<Index>(o.robust_images, s_.data.test.count);
  if (wanted == 0) return;
  images_ = draw(s_.data.test, wanted, o.seed);
  if (!s_.dual && o.group_images > 1) {
    const Options own = in_groups_of_one(o);
    alone_.emplace(make_model(s_.backend, own, plan_model(own, s_.data.train.shape, s_.classes())));
  }
  parts_.push_back(std::make_unique<Part>("whole", alone_ ? *alone_ : s_.model, s_));
  if (!s_.dual) return;
  parts_.push_back(std::make_unique<Part>("standard", s_.dual->standard().model(), s_));
  parts_.push_back(std::make_unique<Part>("robust", s_.dual->robust().model(), s_));
}
RobustCheck::~RobustCheck() = default;

nlohmann::json RobustCheck::run() {
  nlohmann::json out = {{"images", images_.count}, {"steps", s_.options.robust_steps}};
  if (parts_.empty()) return out;
  if (alone_) moxie::train::warm_start(s_.model.parameters(), alone_->parameters(), "");
  const ImageShape& shape = images_.shape;
  const std::vector<double> zeros(to_size(shape.channels), 0), ones(zeros.size(), 1);
  const Batches batches(images_, s_.classes(), {zeros, ones}, {.batch_size = s_.options.batch},
                        Batches::Use::evaluate);
  const Batches::Epoch epoch = batches.epoch(0);
  const Index room = s_.options.batch;
  Backend& b = s_.backend;
  Mirror<float> x(b, room * shape.values()), scores(b, room * s_.classes());
  const Mirror<float> x_adv(b, room * shape.values());
  Mirror<std::int32_t> y(b, room), before(b, room), after(b, room);
  const Mirror<std::int32_t> numbers(b, room);
  moxie::ClassMargins margins(s_.classes());
  for (const auto& part : parts_) part->count = {};
  for (Index first = 0; first < images_.count; first += room) {
    const Index n = std::min(room, images_.count - first);
    batches.fill(epoch, first / room, 0, n, {.images = x.host, .labels = y.host});
    x.send(n * shape.values());
    y.send(n);
    const moxie::AttackBatch<Backend> batch{.x = {x.data(), n, shape.values()},
                                            .y = {y.data(), n},
                                            .seed = s_.options.seed,
                                            .first_image = first};
    for (const auto& part : parts_) part->add(batch, x_adv, before, after);
    const moxie::Matrix<Backend> z{scores.data(), n, s_.classes()};
    parts_.front()->attack.target().scores(batch.x, {numbers.data(), n}, z);
    margins.add(b, moxie::ConstMatrix<Backend>(z), batch.y);
  }
  out.update(parts_.front()->figures());
  for (Index c = 0; c < s_.classes(); ++c) {
    const bool seen =
        std::find(images_.labels.begin(), images_.labels.end(), c) != images_.labels.end();
    out["margins"].push_back(seen ? json_number(margins.mean(c)) : nlohmann::json(nullptr));
  }
  for (std::size_t i = 1; i < parts_.size(); ++i) out[parts_[i]->name] = parts_[i]->figures();
  return out;
}

}  // namespace vmoe
