#include "trainer.hpp"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "batch_feed.hpp"
#include "checkpoint_info.hpp"
#include "evaluator.hpp"
#include "interrupt.hpp"
#include "json_number.hpp"
#include "layer_figures.hpp"
#include "loss_reader.hpp"
#include "moe_feed.hpp"
#include "moxie/routing/statistics.hpp"
#include "moxie/train/schedule.hpp"
#include "progress.hpp"
#include "report/report.hpp"
#include "robust_check.hpp"
#include "routing_samples.hpp"
#include "session.hpp"
#include "stopwatch.hpp"
#include "train_step.hpp"
#include "view_pairs.hpp"

namespace vmoe {
namespace {

using nlohmann::json;

/// Two views of each image, if --prc asks for them.
std::optional<ViewRecipe> views_of(const Options& o) {
  if (o.prc == 0) return std::nullopt;
  return ViewRecipe{.kind = view_kind(o.prc_views),
                    .augmentation = {.crop_padding = o.crop_padding, .flip = o.flip},
                    .jitter = o.prc_jitter};
}

/// What a step takes instead of normalised images: pixels in [0, 1].
Normalization as_pixels(const Normalization& of) {
  return {std::vector<double>(of.mean.size(), 0), std::vector<double>(of.std_dev.size(), 1)};
}

/// The training loop.
class Run {
 public:
  /// Writes nothing yet.
  explicit Run(Session& session)
      : s_(session),
        o_(session.options),
        rows_((o_.prc > 0 ? 2 : 1) * o_.batch),
        step_(make_train_step(s_, rows_)),
        batches_(s_.data.train, s_.classes(),
                 step_->takes_pixels() ? as_pixels(s_.normalization) : s_.normalization,
                 {.batch_size = o_.batch,
                  .model_channels = step_->takes_pixels() ? 0 : s_.plan.vit.channels,
                  .seed = o_.seed,
                  .augmentation = {.crop_padding = o_.crop_padding, .flip = o_.flip},
                  .mixup = {.concentration = o_.mixup},
                  .label_smoothing = o_.label_smoothing,
                  .views = views_of(o_)},
                 Batches::Use::train),
        pairs_(o_.prc > 0 ? std::optional<ViewPairs>(std::in_place, o_, s_.plan.vit, o_.batch)
                          : std::nullopt),
        per_epoch_(static_cast<std::uint64_t>(batches_.per_epoch())),
        total_(steps("epochs", o_.epochs)),
        schedule_(moxie::make_schedule(o_.schedule,
                                       {.peak = o_.learning_rate,
                                        .end = o_.end_learning_rate,
                                        .warmup = steps("warmup_epochs", o_.warmup_epochs),
                                        .total = total_,
                                        .timescale = o_.timescale,
                                        .cooldown = steps("cooldown_epochs", o_.cooldown_epochs),
                                        .half_cycle = static_cast<std::uint64_t>(o_.half_cycle)})),
        telemetry_(s_.backend),
        feed_(s_.backend, s_.pool, batches_, rows_, s_.classes(), pairs_ ? &*pairs_ : nullptr),
        evaluator_(s_.model, s_.pool, s_.plan, o_.loss == "sigmoid", o_.group_images, o_.batch),
        robust_check_(s_),
        progress_(::isatty(STDOUT_FILENO) == 1) {
    if (total_ == 0)
      moxie::throw_config("vmoe: epochs is ", o_.epochs,
                          ", expected at least one step: ", 1.0 / static_cast<double>(per_epoch_));
  }

  TrainEnd operator()(json& result) {
    if (s_.directory) {
      restore();
    } else {
      step_->warm_start();
      s_.directory.emplace(RunWriter::create(o_.out, s_.config()));
    }
    const InterruptGuard guard;
    clock_ = Stopwatch(seconds_before_);
    try {
      for (; at_ < total_; ++at_) {
        if (InterruptGuard::requested()) return interrupted();
        train_step();
        after_step();
      }
      finish(result);
    } catch (const moxie::numeric_error& e) {
      progress_.end_line();
      moxie::throw_numeric("vmoe train: in step ", at_, ": ", e.what(), "; ", last_good());
    } catch (...) {
      progress_.end_line();
      throw;
    }
    return TrainEnd::finished;
  }

 private:
  std::uint64_t steps(const char* option, double epochs) const {
    const double wanted = std::round(epochs * static_cast<double>(per_epoch_));
    constexpr double most = 0x1p53;  // what the report counts exactly
    if (!(wanted <= most))
      moxie::throw_config("vmoe: ", option, " is ", epochs, ", which makes ", wanted,
                          " steps, expected at most ", most);
    return static_cast<std::uint64_t>(wanted);
  }
  double epochs_done(std::uint64_t step) const {
    return static_cast<double>(step) / static_cast<double>(per_epoch_);
  }

  void train_step() {
    const BatchFeed::Batch batch = feed_.take(at_);
    if (at_ + 1 < total_) feed_.start(at_ + 1);
    moxie::Pass<Backend> pass{.mode = moxie::Mode::train,
                              .seed = o_.seed,
                              .step = at_,
                              .progress = static_cast<double>(at_) / static_cast<double>(total_)};
    pass.pairs = batch.pairs;
    const Index classes = s_.classes();
    learning_rate_ = schedule_(at_);
    step_->run({batch.inputs, batch.targets}, learning_rate_, pass);
    const std::vector<float> image_losses = step_->losses();
    const std::vector<float> scores = to_host(s_.backend, step_->scores());
    double loss = 0;
    double correct = 0;
    for (Index i = 0; i < rows_; ++i) {
      loss += static_cast<double>(image_losses[to_size(i)]);
      const float* row = scores.data() + i * classes;
      const auto guess = std::max_element(row, row + classes) - row;
      correct += guess == batch.labels[to_size(i)] ? 1 : 0;
    }
    loss /= static_cast<double>(rows_);
    if (!std::isfinite(loss)) moxie::throw_numeric("the loss is ", loss);
    telemetry_.reset();
    step_->visit(telemetry_);
    step_->visit_lower(telemetry_);
    LossReader losses(s_.backend);
    step_->visit(losses);
    LossReader lower(s_.backend, "lower ");
    step_->visit_lower(lower);
    losses.sums.merge(lower.sums);
    losses.sums.merge(step_->parts());
    window_.add(loss, correct, static_cast<double>(rows_), telemetry_.read(), losses.sums);
  }

  void after_step() {
    const std::uint64_t done = at_ + 1;
    const bool last = done == total_;
    const bool epoch_done = done % per_epoch_ == 0 || last;
    const bool logs = done % static_cast<std::uint64_t>(o_.log_every) == 0 || last;
    show(epoch_done, logs);
    if (logs) log_training();
    // The last step's evaluation and checkpoint are those of finish().
    if (last) return;
    if (due(o_.eval_every)) s_.directory->log(evaluate("eval", done));
    const auto every = static_cast<std::uint64_t>(o_.checkpoint_every);
    if (every > 0 ? done % every == 0 : epoch_done) save(done);
  }
  /// Whether a multiple of `epochs` was passed by this step.
  bool due(double epochs) const {
    return std::floor(epochs_done(at_ + 1) / epochs) > std::floor(epochs_done(at_) / epochs);
  }

  double images_per_second() const {
    return window_.images / std::max(clock_.seconds() - window_.began, 1e-9);
  }

  void log_training() {
    json losses = json::object();
    for (const auto& [name, value] : window_.mean_losses()) losses[name] = json_number(value);
    s_.directory->log({{"event", "train"},
                       {"step", at_ + 1},
                       {"epoch", epochs_done(at_ + 1)},
                       {"loss", json_number(window_.mean_loss() + window_.mean_regularizers())},
                       {"main_loss", json_number(window_.mean_loss())},
                       {"aux_loss", json_number(window_.mean_regularizers())},
                       {"aux_losses", losses},
                       {"accuracy", window_.accuracy()},
                       {"learning_rate", learning_rate_},
                       {"gradient_norm", json_number(step_->gradient_norm())},
                       {"images_per_s", images_per_second()},
                       {"dropped", window_.dropped_share()},
                       {"seconds", clock_.seconds()}});
    window_ = {.began = clock_.seconds()};
  }

  /// Figures of the steps since the last line of metrics; of few steps only where there are no
  /// others.
  void show(bool epoch_done, bool window_ends) {
    constexpr double few = 10;
    if (window_ends || window_.steps >= few || shown_.epochs == 0)
      shown_ = {.epochs = o_.epochs,
                .loss = window_.mean_loss(),
                .accuracy = window_.accuracy(),
                .images_per_second = images_per_second(),
                .dropped = window_.dropped_share()};
    shown_.epoch = epochs_done(at_ + 1);
    shown_.seconds_left = (clock_.seconds() - seconds_before_) /
                          static_cast<double>(at_ + 1 - first_) *
                          static_cast<double>(total_ - at_ - 1);
    progress_.show(shown_, epoch_done);
  }

  /// A line of metrics.
  json evaluate(const char* event, std::uint64_t step) {
    const Stopwatch::Pause pause(clock_);
    Evaluation e;
    evaluator_.run(s_.data.test, s_.normalization, e);
    const double epoch = epochs_done(step);
    char text[120];
    std::snprintf(text, sizeof text, "%s after epoch %.2f: loss %.4f, test accuracy %.2f %%", event,
                  epoch, e.loss, 100 * e.accuracy);
    progress_.say(text);
    json line = {{"event", event},
                 {"step", step},
                 {"epoch", epoch},
                 {"loss", e.loss},
                 {"accuracy", e.accuracy},
                 {"dropped", dropped_share(e.layers)},
                 {"layers", layer_figures(e.layers, s_.plan.vit.moe_blocks)}};
    if (o_.robust_images > 0) {
      line["robust"] = robust_check_.run();
      const json& r = line["robust"];
      if (r.contains("ra")) {
        std::snprintf(text, sizeof text, "  of %lld images: SA %.2f %%, RA %.2f %% (PGD-%lld)",
                      r["images"].get<long long>(), r["sa"].get<double>(), r["ra"].get<double>(),
                      r["steps"].get<long long>());
        progress_.say(text);
      }
    }
    return line;
  }

  void save(std::uint64_t step) {
    const CheckpointInfo info{.options = o_,
                              .normalization = s_.normalization,
                              .classes = s_.data.classes,
                              .image = s_.data.train.shape,
                              .step = step,
                              .data_fingerprint = s_.data_fingerprint,
                              .train_seconds = clock_.seconds(),
                              .window = window_};
    const Stopwatch::Pause pause(clock_);
    step_->save(s_.directory->checkpoint(step), info.to_metadata());
    s_.directory->prune_checkpoints(o_.keep);
  }
  void restore() {
    const std::vector<std::uint64_t> saved_steps = s_.directory->checkpoints();
    if (saved_steps.empty()) {
      s_.directory->cut_metrics(0);
      step_->warm_start();
      progress_.say("no checkpoint yet: starting at the first step");
      return;
    }
    const std::filesystem::path file = s_.directory->checkpoint(saved_steps.back());
    const moxie::Metadata metadata = step_->load(file);
    const CheckpointInfo saved = CheckpointInfo::from_metadata(metadata, file.string());
    require_same_run(o_, saved.options,
                     moxie::detail::message("vmoe: the checkpoint '", file.string(), "'"));
    if (saved.data_fingerprint != s_.data_fingerprint)
      moxie::throw_io("vmoe: '", o_.data, "' is not the data that '", file.string(),
                      "' was trained on (their fingerprints differ)");
    s_.directory->cut_metrics(saved.step);
    at_ = first_ = saved.step;
    seconds_before_ = saved.train_seconds;
    window_ = saved.window;
    progress_.say(moxie::detail::message("resuming at step ", at_, " of ", total_));
  }
  std::string last_good() const {
    const std::vector<std::uint64_t> saved_steps = s_.directory->checkpoints();
    if (saved_steps.empty()) return "there is no checkpoint yet";
    return moxie::detail::message("the last good checkpoint stays: '",
                                  s_.directory->checkpoint(saved_steps.back()).string(), "'");
  }
  TrainEnd interrupted() {
    progress_.end_line();
    save(at_);
    write_report(s_.directory->path());
    progress_.say(moxie::detail::message("interrupted: step ", at_, " of ", total_,
                                         " is saved; go on with: vmoe train --resume ",
                                         s_.directory->path().string()));
    return TrainEnd::interrupted;
  }

  void finish(json& result) {
    const double seconds = clock_.seconds();
    result = evaluate("final", total_);
    result["train_seconds"] = seconds;
    result["backend"] = backend_name;
    result["images_per_s"] =
        static_cast<double>(total_) * static_cast<double>(rows_) / std::max(seconds, 1e-9);
    save(total_);
    s_.directory->log(result);
    if (s_.model.moe_layers() > 0)
      s_.directory->write("routing.json",
                          sample_routing(evaluator_, s_.plan, o_, s_.data, s_.normalization));
    write_report(s_.directory->path());
    for (const json& layer : result["layers"]) {
      std::string line = "block " + layer["block"].dump() + ": load of the experts in %:";
      for (const json& share : layer["load"]) {
        char text[16];
        std::snprintf(text, sizeof text, " %.1f", 100 * share.get<double>());
        line += text;
      }
      char text[48];
      std::snprintf(text, sizeof text, "; dropped %.2f %%", 100 * layer["dropped"].get<double>());
      progress_.say(line + text);
    }
    char text[160];
    std::snprintf(text, sizeof text,
                  "test accuracy %.2f %%, dropped %.2f %%, trained %s at %.0f images/s",
                  100 * result["accuracy"].get<double>(), 100 * result["dropped"].get<double>(),
                  format_seconds(seconds).c_str(), result["images_per_s"].get<double>());
    progress_.say(text);
  }

  Session& s_;
  const Options& o_;
  Index rows_;  // inputs of a step
  std::unique_ptr<TrainStep> step_;
  Batches batches_;
  std::optional<ViewPairs> pairs_;  // with --prc
  std::uint64_t per_epoch_, total_;
  moxie::Schedule schedule_;
  moxie::RoutingTelemetry<Backend> telemetry_;
  BatchFeed feed_;
  Evaluator evaluator_;
  RobustCheck robust_check_;
  Progress progress_;

  std::uint64_t at_ = 0;     // steps done; during a step, those before it
  std::uint64_t first_ = 0;  // at_ when this process began
  double seconds_before_ = 0;
  Stopwatch clock_;
  MetricsWindow window_;
  ProgressState shown_;
  double learning_rate_ = 0;
};

}  // namespace

const char* program_backend() { return backend_name; }

TrainEnd train(const TrainRequest& request, json& result) {
  Session session(request);
  const Options& o = session.options;
  const ImageShape& shape = session.data.train.shape;
  std::printf("%s: %td training and %td test images of %tdx%tdx%td, %zu classes (%s)\n",
              o.data.c_str(), session.data.train.count, session.data.test.count, shape.height,
              shape.width, shape.channels, session.data.classes.size(),
              session.data.format.c_str());
  std::printf("%s: %s, %td parameters, %.1f million active FLOPs an image, %s%d threads\n",
              (o.model == "image_moe" ? o.model : o.preset).c_str(),
              session.config()["model"]["kind"].get<std::string>().c_str(),
              session.model.parameters().size(), session.plan.active_flops / 1e6,
              backend_uses_pool ? "" : moxie::detail::message(backend_name, ", ").c_str(),
              session.pool.workers());
  std::fflush(stdout);
  if (o.prc > 0 && o.prc_form == "prc" && o.prc_diagonal == "position" &&
      !balances(o, moe_config(o, session.plan.vit)))
    std::fputs(
        "warning: --prc-diagonal position hardly balances the experts, and nothing else does: "
        "add --importance and --load, or take --prc-diagonal matrix\n",
        stderr);
  return Run(session)(result);
}

}  // namespace vmoe
