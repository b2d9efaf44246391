#include "attack.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "attack_pictures.hpp"
#include "attacker.hpp"
#include "interrupt.hpp"
#include "mirror.hpp"
#include "moxie/ops/argmax.hpp"
#include "moxie/routing/routing_change.hpp"
#include "part_accuracy.hpp"
#include "progress.hpp"
#include "session.hpp"
#include "stopwatch.hpp"
#include "subject.hpp"

namespace vmoe {
namespace {

using nlohmann::json;
constexpr const char* attack_command = "vmoe attack";

/// Thrown through a pass that the user does not want to wait for.
struct Interrupted {};

/// Margins of classes and routes, before and under the attack.
class Comparison {
 public:
  Comparison(Index classes, std::size_t layers)
      : clean_(classes), attacked_(classes), count_(to_size(classes)), change_(layers) {}

  /// `labels`: those of y, on the host.
  void add_margins(Backend& backend, moxie::ConstMatrix<Backend> clean,
                   moxie::ConstMatrix<Backend> attacked, moxie::ConstIntVector<Backend> y,
                   const std::vector<std::int32_t>& labels) {
    clean_.add(backend, clean, y);
    attacked_.add(backend, attacked, y);
    for (Index i = 0; i < y.size; ++i) ++count_[to_size(labels[to_size(i)])];
  }
  /// Of one image whose tokens are [first, first + tokens) of the layers.
  void add_routes(const std::vector<moxie::TokenExperts>& before,
                  const std::vector<moxie::TokenExperts>& after, Index first, Index tokens) {
    std::vector<std::int32_t> pairs;
    for (Index t = first; t < first + tokens; ++t)
      pairs.insert(pairs.end(), 2, static_cast<std::int32_t>(t));
    for (std::size_t l = 0; l < change_.size(); ++l) {
      const moxie::RoutingChange own = moxie::routing_change(before[l], after[l], pairs);
      change_[l].top1 += own.top1;
      change_[l].set += own.set;
      change_[l].iou += own.iou;
    }
    ++fell_;
  }

  json margins(const std::vector<std::string>& names) const {
    json out = json::array();
    for (std::size_t c = 0; c < count_.size(); ++c) {
      const auto of = [&](const moxie::ClassMargins& m) {
        return count_[c] > 0 ? json(m.mean(static_cast<Index>(c))) : json(nullptr);
      };
      out.push_back({{"class", names[c]},
                     {"images", count_[c]},
                     {"clean", of(clean_)},
                     {"attacked", of(attacked_)}});
    }
    return out;
  }
  json routes(const std::vector<Index>& blocks) const {
    json layers = json::array();
    const double n = std::max(static_cast<double>(fell_), 1.0);
    for (std::size_t l = 0; l < change_.size(); ++l)
      layers.push_back({{"block", blocks[l]},
                        {"top1", change_[l].top1 / n},
                        {"set", change_[l].set / n},
                        {"iou", change_[l].iou / n}});
    return {{"images", fell_}, {"layers", std::move(layers)}};
  }

 private:
  moxie::ClassMargins clean_, attacked_;
  std::vector<Index> count_;
  std::vector<moxie::RoutingChange> change_;
  Index fell_ = 0;
};

class Run {
 public:
  explicit Run(const AttackRequest& request)
      : request_(checked(request)),
        checkpoint_(read_checkpoints(attack_command, {request.checkpoint}).front()),
        sample_(
            draw_sample(attack_command, {checkpoint_}, request.data, request.images, request.seed)),
        options_(in_groups_of_one(checkpoint_.info.options)),
        plan_(plan_model(options_, checkpoint_.info.image,
                         static_cast<Index>(checkpoint_.info.classes.size()))),
        pool_(thread_count(request.threads)),
        backend_(make_backend(pool_, options_)),
        model_(make_model(backend_, options_, plan_)),
        pixels_(model_, checkpoint_.info.normalization, checkpoint_.info.image,
                [this](Index images) { watch(images); }),
        batch_(std::min(request.batch, sample_.images.count)),
        x_(backend_, batch_ * pixels_.input_width()),
        x_adv_(backend_, batch_ * pixels_.input_width()),
        y_(backend_, batch_),
        standing_(backend_, batch_),
        clean_(backend_, batch_ * plan_.vit.classes),
        attacked_(backend_, batch_ * plan_.vit.classes),
        progress_(::isatty(STDOUT_FILENO) != 0) {
    moxie::load_checkpoint(checkpoint_.file, model_.parameters());
  }

  AttackResult operator()() {
    const ImageSet& images = sample_.images;
    attacker_ = make_attacker(pixels_, request_.attack, batch_);
    fill(0, 1);
    const std::string undefined =
        PartAccuracy::undefined(pixels_, {x_.data(), 1, pixels_.input_width()});
    std::optional<PartAccuracy> parts;
    if (undefined.empty())
      parts.emplace(pixels_, part_attack(request_.attack), request_.definition, router_loss(),
                    batch_);
    Comparison comparison(plan_.vit.classes, routed() ? plan_.vit.moe_blocks.size() : 0);
    AttackPictures pictures(request_.pictures, plan_.vit, images.shape);
    json broken = json::array();
    std::vector<std::pair<std::string, Index>> members;

    const InterruptGuard guard;
    try {
      for (done_ = 0; done_ < images.count;) {
        const Index n = std::min(batch_, images.count - done_);
        fill(done_, n);
        at_work_ = n;
        const Attacker::Batch batch{.x = {x_.data(), n, pixels_.input_width()},
                                    .y = {y_.data(), n},
                                    .seed = request_.seed,
                                    .first_image = done_};
        const moxie::RobustCount count =
            attacker_->run(batch, {x_adv_.data(), n, pixels_.input_width()}, {standing_.data(), n});
        Index before = count.clean;
        const std::vector<Attacker::Member> ran = attacker_->members();
        members.resize(ran.size());
        for (std::size_t m = 0; m < ran.size(); ++m) {
          members[m].first = ran[m].name;
          members[m].second += before - ran[m].standing;
          before = ran[m].standing;
        }
        compare(batch, comparison, pictures, broken);
        if (parts) parts->add(batch);
        total_ += count;
        done_ += n;
        at_work_ = 0;
        show(done_ == images.count);
      }
    } catch (const Interrupted&) {
      progress_.say(moxie::detail::message("interrupted: image ", done_, " of ", images.count,
                                           ", no figures were written"));
      return {.interrupted = true, .figures = {}, .pictures = {}};
    }
    json out = {{"checkpoint", checkpoint_.file.string()},
                {"step", checkpoint_.info.step},
                {"data", test_data_path({checkpoint_}, request_.data)},
                {"images", images.count},
                {"seed", request_.seed},
                {"attack", attack_json()},
                {"sa", total_.sa()},
                {"ra", total_.ra()},
                {"broken", std::move(broken)},
                {"members", json::array()},
                {"margins", comparison.margins(sample_.classes)},
                {"routing_change", comparison.routes(plan_.vit.moe_blocks)},
                {"parts", parts_json(parts, undefined)},
                {"seconds", watch_.seconds()}};
    for (const auto& [name, count] : members)
      out["members"].push_back({{"name", name}, {"broke", count}});
    json shown =
        pictures.page(out, sample_.classes, routed() ? plan_.vit.moe_blocks : std::vector<Index>{},
                      options_.experts);
    return {.interrupted = false, .figures = std::move(out), .pictures = std::move(shown)};
  }

 private:
  static const AttackRequest& checked(const AttackRequest& r) {
    check(r.attack);
    moxie::detail::check_threat(attack_command, r.attack.threat);
    if (r.pictures < 0)
      moxie::throw_config(attack_command, ": pictures is ", r.pictures, ", expected at least 0");
    if (r.batch < 1)
      moxie::throw_config(attack_command, ": batch is ", r.batch, ", expected at least 1");
    return r;
  }
  bool routed() const { return model_.moe_layers() > 0; }
  /// Whole images have one route; their router is driven away from its choice.
  moxie::RouterLoss router_loss() const {
    return plan_.vit.tokens() == 1 ? moxie::RouterLoss::preference : moxie::RouterLoss::divergence;
  }

  void fill(Index first, Index n) {
    const std::uint8_t* from = sample_.images.image(first);
    const Index values = n * pixels_.input_width();
    for (std::size_t v = 0; v < to_size(values); ++v)
      x_adv_.host[v] = x_.host[v] = static_cast<float>(from[v] / 255.0);
    std::copy_n(sample_.images.labels.begin() + first, n, y_.host.begin());
    x_.send(values);
    x_adv_.send(values);
    y_.send(n);
  }
  /// What the model makes of the clean images and of those that were found.
  void compare(const Attacker::Batch& batch, Comparison& comparison, AttackPictures& pictures,
               json& broken) {
    const Index n = batch.x.rows;
    const Index classes = plan_.vit.classes;
    const moxie::Matrix<Backend> clean(clean_.data(), n, classes);
    const moxie::Matrix<Backend> attacked(attacked_.data(), n, classes);
    moxie::TokenExpertsReader<Backend> before(backend_, options_.k), after(backend_, options_.k);
    attacker_->scores(batch.x, clean);
    attacker_->visit(before);
    attacker_->scores({x_adv_.data(), n, batch.x.cols}, attacked);
    attacker_->visit(after);
    comparison.add_margins(backend_, clean, attacked, batch.y, y_.host);
    clean_.receive(n * classes);
    attacked_.receive(n * classes);
    x_adv_.receive(n * batch.x.cols);
    standing_.receive(n);
    const Index tokens = plan_.vit.tokens();
    for (Index i = 0; i < n; ++i) {
      const float* scores = clean_.host.data() + i * classes;
      const std::int32_t label = y_.host[to_size(i)];
      const bool right = moxie::detail::is_largest(scores, classes, Index{label});
      if (!right || standing_.host[to_size(i)] != 0) continue;
      broken.push_back(sample_.numbers[to_size(done_ + i)]);
      comparison.add_routes(before.layers, after.layers, i * tokens, tokens);
      pictures.add({.number = sample_.numbers[to_size(done_ + i)],
                    .label = label,
                    .clean = x_.host.data() + i * batch.x.cols,
                    .attacked = x_adv_.host.data() + i * batch.x.cols,
                    .clean_scores = scores,
                    .attacked_scores = attacked_.host.data() + i * classes,
                    .before = before.layers,
                    .after = after.layers,
                    .first_token = i * tokens});
    }
  }

  json attack_json() const {
    const AttackChoice a = resolved(request_.attack);
    json out = {{"name", a.name},
                {"norm", a.threat.norm == moxie::Norm::linf ? "linf" : "l2"},
                {"eps", a.threat.eps},
                {"steps", a.steps},
                {"restarts", a.restarts}};
    if (a.name == "pgd" || a.name == "vmoe_pgd") out["step"] = a.step;
    if (a.name == "auto_attack") out["queries"] = auto_attack_queries(a);
    return out;
  }
  json parts_json(const std::optional<PartAccuracy>& parts, const std::string& undefined) const {
    if (!parts) return {{"defined", false}, {"reason", undefined}};
    const moxie::Pgd pgd = part_attack(request_.attack);
    return {
        {"defined", true},
        {"definition", request_.definition == moxie::PartMode::isolated ? "isolated" : "transfer"},
        {"attack", {{"name", "pgd"}, {"steps", pgd.steps}, {"step", pgd.step}}},
        {"router_loss",
         router_loss() == moxie::RouterLoss::preference ? "preference" : "divergence"},
        {"ra_e", parts->experts().ra()},
        {"ra_r", parts->routers().ra()}};
  }

  void watch(Index images) {
    passes_ += images;
    if (InterruptGuard::requested()) throw Interrupted{};
    show(false);
  }
  void show(bool last) {
    const auto n = static_cast<double>(sample_.images.count);
    double part = static_cast<double>(done_) / n;
    const double left = part > 0 ? watch_.seconds() * (1 - part) / part : 0;
    const double speed = static_cast<double>(passes_) / std::max(watch_.seconds(), 1e-3);
    std::string row = moxie::detail::message("image ", done_, "/", sample_.images.count);
    char text[80];
    if (done_ > 0) {
      std::snprintf(text, sizeof text, "  SA %.1f%%  RA %.1f%%", total_.sa(), total_.ra());
      row += text;
    }
    const std::vector<Attacker::Member> members =
        at_work_ > 0 ? attacker_->finished() : std::vector<Attacker::Member>{};
    if (!members.empty()) {  // an ensemble is long at one batch
      row.append(moxie::detail::message("  ", members.back().standing, " of ", at_work_,
                                        " stand after ", members.back().name));
      constexpr double of_four_and_parts = 5;
      part += static_cast<double>(at_work_) / n * static_cast<double>(members.size()) /
              of_four_and_parts;
    }
    std::snprintf(text, sizeof text, "  %.0f passes/s", speed);
    row += text;
    if (done_ > 0) row.append("  ").append(format_seconds(left)).append(" left");
    progress_.show(row, part, last);
  }

  AttackRequest request_;
  Checkpoint checkpoint_;
  Sample sample_;
  Options options_;
  ModelPlan plan_;
  moxie::ThreadPool pool_;
  Backend backend_;
  Model model_;
  PixelModel pixels_;
  Index batch_;
  Mirror<float> x_, x_adv_;
  Mirror<std::int32_t> y_, standing_;
  Mirror<float> clean_, attacked_;
  Progress progress_;
  std::unique_ptr<Attacker> attacker_;
  moxie::RobustCount total_;
  Index done_ = 0;
  Index at_work_ = 0;  // images of the batch that is attacked
  Index passes_ = 0;   // of one image
  Stopwatch watch_;
};

}  // namespace

AttackResult attack(const AttackRequest& request) { return Run(request)(); }

}  // namespace vmoe
