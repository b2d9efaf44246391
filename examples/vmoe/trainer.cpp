#include "trainer.hpp"

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "checkpoint_info.hpp"
#include "data/batch.hpp"
#include "evaluator.hpp"
#include "interrupt.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "moxie/optimizer/adam_w.hpp"
#include "moxie/optimizer/sgd.hpp"
#include "moxie/train/schedule.hpp"
#include "moxie/train/step.hpp"
#include "moxie/train/supervised.hpp"
#include "progress.hpp"
#include "report/report.hpp"
#include "routing_samples.hpp"
#include "run_directory.hpp"

namespace vmoe {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int thread_count(Index wanted) {
  if (wanted > 0) return static_cast<int>(wanted);
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

/// NaN has no place in JSON; the report reads null.
json number(double value) { return std::isfinite(value) ? json(value) : json(nullptr); }

/// Options of a resumed run: the run's own. Flags may repeat them, or change what has no influence on the result.
Options resumed_options(const RunDirectory& run, const Options& flags) {
  Options own;
  apply_config_file(run.config().string(), own);
  Options merged = own;
  const json before = to_json(own);
  const json defaults = to_json(Options{});
  const json wanted = to_json(flags);
  visit_options(merged, [&](const char* group, const char* name, auto& member, const char*) {
    if (wanted[name] == defaults[name] || wanted[name] == before[name]) return;
    const std::string_view key = name;
    if (key == "out") return;
    if (std::string_view(group) != "running" && key != "data")
      moxie::throw_config("vmoe: --", name, " is ", wanted[name].dump(), ", but the run has ",
                          before[name].dump(), ": a resumed run keeps its options");
    wanted[name].get_to(member);
  });
  return merged;
}

/// Everything of a run that does not depend on the optimizer.
struct Session {
  Options options;
  RunDirectory directory;
  Dataset data;
  std::uint64_t data_fingerprint;
  Normalization normalization;
  ModelPlan plan;
  moxie::ThreadPool pool;
  Backend backend;
  Model model;
  bool resumed;

  Session(Options o, RunDirectory d, Dataset images, bool goes_on)
      : options(std::move(o)),
        directory(std::move(d)),
        data(std::move(images)),
        data_fingerprint(fingerprint(data)),
        normalization(measure_normalization(data.train)),
        plan(plan_model(options, data.train.shape, static_cast<Index>(data.classes.size()))),
        pool(thread_count(options.threads)),
        backend(pool),
        model(make_model(backend, options, plan)),
        resumed(goes_on) {}

  json config() const {
    return {{"options", to_json(options)},
            {"preset", options.preset},
            {"seed", options.seed},
            {"data",
             {{"source", data.source},
              {"format", data.format},
              {"classes", data.classes},
              {"train", data.train.count},
              {"test", data.test.count},
              {"held_out", data.held_out},
              {"height", data.train.shape.height},
              {"width", data.train.shape.width},
              {"channels", data.train.shape.channels}}},
            {"model", describe(options, plan, model)},
            {"train",
             {{"epochs", options.epochs},
              {"batch", options.batch},
              {"optimizer", options.optimizer},
              {"learning_rate", options.learning_rate},
              {"schedule", options.schedule},
              {"weight_decay", options.weight_decay},
              {"label_smoothing", options.label_smoothing},
              {"mixup", options.mixup}}}};
  }
};

/// The training loop, for one optimizer.
template <class Optimizer>
class Run {
 public:
  Run(Session& session, Optimizer optimizer)
      : s_(session),
        o_(session.options),
        batches_(s_.data.train, static_cast<Index>(s_.data.classes.size()), s_.normalization,
                 {.batch_size = o_.batch,
                  .seed = o_.seed,
                  .augmentation = {.crop_padding = o_.crop_padding, .flip = o_.flip},
                  .mixup = {.concentration = o_.mixup},
                  .label_smoothing = o_.label_smoothing},
                 Batches::Use::train),
        per_epoch_(static_cast<std::uint64_t>(batches_.per_epoch())),
        total_(steps(o_.epochs)),
        schedule_(moxie::make_schedule(o_.schedule, {.peak = o_.learning_rate,
                                                     .end = o_.end_learning_rate,
                                                     .warmup = steps(o_.warmup_epochs),
                                                     .total = total_})),
        step_(s_.model,
              moxie::Supervised{o_.loss == "sigmoid" ? moxie::Supervised::Loss::sigmoid
                                                     : moxie::Supervised::Loss::softmax},
              std::move(optimizer), s_.model.parameters().range(), o_.batch,
              {.clip = o_.clip > 0 ? std::optional(moxie::ClipByGlobalNorm{o_.clip})
                                   : std::nullopt}),
        evaluator_(s_.model, s_.plan, o_.loss == "sigmoid", o_.group_images, o_.batch),
        progress_(::isatty(STDOUT_FILENO) == 1),
        inputs_(to_size(o_.batch * s_.model.input_width())),
        targets_(to_size(o_.batch) * s_.data.classes.size()),
        labels_(to_size(o_.batch)) {}

  TrainEnd operator()(json& result) {
    if (s_.resumed) restore();
    const InterruptGuard guard;
    started_ = Clock::now();
    Batches::Epoch epoch;
    bool have_epoch = false;
    for (; at_ < total_; ++at_) {
      if (InterruptGuard::requested()) return interrupted();
      const std::uint64_t number = at_ / per_epoch_;
      if (!have_epoch || epoch.number != number) {
        epoch = batches_.epoch(number);
        have_epoch = true;
      }
      train_step(epoch, static_cast<Index>(at_ % per_epoch_));
      after_step();
    }
    finish(result);
    return TrainEnd::finished;
  }

 private:
  /// Training figures since the last line of metrics.
  struct Window {
    double loss = 0, correct = 0, steps = 0;
    Clock::time_point start = Clock::now();
  };

  std::uint64_t steps(double epochs) const {
    return static_cast<std::uint64_t>(std::llround(epochs * static_cast<double>(per_epoch_)));
  }
  double epochs_done() const {
    return static_cast<double>(at_ + 1) / static_cast<double>(per_epoch_);
  }
  double train_seconds() const { return seconds_before_ + seconds_since(started_) - paused_; }

  void train_step(const Batches::Epoch& epoch, Index batch) {
    const BatchBuffers buffers{.images = inputs_, .targets = targets_, .labels = labels_};
    const Index parts = std::min<Index>(s_.backend.workers(), o_.batch);
    s_.backend.parallel(parts, [&](Index part, int) {
      batches_.fill(epoch, batch, o_.batch * part / parts, o_.batch * (part + 1) / parts, buffers);
    });
    const auto classes = static_cast<Index>(s_.data.classes.size());
    learning_rate_ = schedule_(at_);
    step_({{inputs_.data(), o_.batch, s_.model.input_width()}, {targets_.data(), o_.batch, classes}},
          learning_rate_,
          {.mode = moxie::Mode::train,
           .seed = o_.seed,
           .step = at_,
           .progress = static_cast<double>(at_) / static_cast<double>(total_)});
    const auto& state = step_.objective_state();
    double loss = 0;
    for (Index i = 0; i < o_.batch; ++i) {
      loss += static_cast<double>(state.losses[i]);
      const float* row = state.scores.row(i);
      const auto guess = std::max_element(row, row + classes) - row;
      window_.correct += guess == labels_[to_size(i)] ? 1 : 0;
    }
    loss /= static_cast<double>(o_.batch);
    if (!std::isfinite(loss))
      moxie::throw_numeric("vmoe train: the loss is ", loss, " in step ", at_,
                           "; the last good checkpoint stays in '",
                           (s_.directory.path() / "checkpoint").string(), "'");
    window_.loss += loss;
    window_.steps += 1;
  }

  void after_step() {
    const bool last = at_ + 1 == total_;
    const bool epoch_done = (at_ + 1) % per_epoch_ == 0 || last;
    const auto log_every = static_cast<std::uint64_t>(o_.log_every);
    if ((at_ + 1) % log_every == 0 || last) log_training();
    show(epoch_done);
    // The last step's evaluation and checkpoint are those of finish().
    if (last) return;
    if (due(o_.eval_every)) log_evaluation("eval");
    const auto every = static_cast<std::uint64_t>(o_.checkpoint_every);
    if (every > 0 ? (at_ + 1) % every == 0 : epoch_done) save(at_ + 1);
  }
  /// Whether a multiple of `epochs` was passed by this step.
  bool due(double epochs) const {
    const double before = static_cast<double>(at_) / static_cast<double>(per_epoch_);
    return std::floor(epochs_done() / epochs) > std::floor(before / epochs);
  }

  void log_training() {
    LoadCounter load;
    s_.model.visit_routing(step_.objective_state().tape, load);
    dropped_ = load.dropped_share();
    const double seconds = seconds_since(window_.start);
    const double images = window_.steps * static_cast<double>(o_.batch);
    shown_loss_ = window_.loss / window_.steps;
    shown_accuracy_ = window_.correct / images;
    shown_rate_ = images / seconds;
    s_.directory.log({{"event", "train"},
                      {"step", at_ + 1},
                      {"epoch", epochs_done()},
                      {"loss", number(shown_loss_ + load.regularizers())},
                      {"main_loss", number(shown_loss_)},
                      {"aux_loss", number(load.regularizers())},
                      {"accuracy", shown_accuracy_},
                      {"learning_rate", learning_rate_},
                      {"gradient_norm", number(step_.read_gradient_norm())},
                      {"images_per_s", shown_rate_},
                      {"dropped", dropped_},
                      {"seconds", train_seconds()}});
    window_ = {};
  }

  void show(bool epoch_done) {
    const double done = static_cast<double>(at_ + 1 - first_);
    const double each = (seconds_since(started_) - paused_) / done;
    progress_.show({.epoch = epochs_done(),
                    .epochs = o_.epochs,
                    .loss = shown_loss_,
                    .accuracy = shown_accuracy_,
                    .images_per_second = shown_rate_,
                    .dropped = dropped_,
                    .seconds_left = each * static_cast<double>(total_ - at_ - 1)},
                   epoch_done);
  }

  json log_evaluation(const char* event) {
    const Clock::time_point start = Clock::now();
    Evaluation e;
    evaluator_.run(s_.data.test, s_.normalization, e);
    json line = {{"event", event},
                 {"step", std::min(at_ + 1, total_)},
                 {"epoch", static_cast<double>(std::min(at_ + 1, total_)) /
                               static_cast<double>(per_epoch_)},
                 {"loss", number(e.loss)},
                 {"accuracy", e.accuracy},
                 {"dropped", e.load.dropped_share()},
                 {"layers", e.load.to_json(s_.plan.vit.moe_blocks)}};
    char text[120];
    std::snprintf(text, sizeof text, "%s after epoch %.2f: loss %.4f, test accuracy %.2f %%", event,
                  line["epoch"].get<double>(), e.loss, 100 * e.accuracy);
    progress_.say(text);
    pause(start);
    if (line["event"] != "final") s_.directory.log(line);
    return line;
  }
  /// Time that is not training.
  void pause(Clock::time_point since) {
    const double seconds = seconds_since(since);
    paused_ += seconds;
    window_.start += std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  }

  CheckpointInfo info(std::uint64_t step) const {
    return {.options = o_,
            .normalization = s_.normalization,
            .classes = s_.data.classes,
            .image = s_.data.train.shape,
            .step = step,
            .data_fingerprint = s_.data_fingerprint,
            .train_seconds = train_seconds()};
  }
  void save(std::uint64_t step) {
    const Clock::time_point start = Clock::now();
    moxie::save_checkpoint(s_.directory.checkpoint(step), s_.model.parameters(),
                           info(step).to_metadata(),
                           moxie::NamedState{"optimizer", step_.optimizer_state()});
    s_.directory.prune_checkpoints(o_.keep);
    pause(start);
  }
  void restore() {
    const std::vector<std::uint64_t> steps = s_.directory.checkpoints();
    if (steps.empty()) {
      progress_.say("no checkpoint yet: starting at the first step");
      return;
    }
    const std::filesystem::path file = s_.directory.checkpoint(steps.back());
    const moxie::Metadata metadata =
        moxie::load_checkpoint(file, s_.model.parameters(),
                               moxie::NamedState{"optimizer", step_.optimizer_state()});
    const CheckpointInfo saved = CheckpointInfo::from_metadata(metadata, file.string());
    if (saved.data_fingerprint != s_.data_fingerprint)
      moxie::throw_io("vmoe: '", o_.data, "' is not the data that '", file.string(),
                      "' was trained on (their fingerprints differ)");
    at_ = first_ = saved.step;
    seconds_before_ = saved.train_seconds;
    progress_.say("resuming at step " + std::to_string(at_) + " of " + std::to_string(total_));
  }
  TrainEnd interrupted() {
    progress_.end_line();
    save(at_);
    write_report(s_.directory.path());
    progress_.say("interrupted: step " + std::to_string(at_) + " of " + std::to_string(total_) +
                  " is saved; go on with: vmoe train --resume " + s_.directory.path().string());
    return TrainEnd::interrupted;
  }

  void finish(json& result) {
    const double seconds = train_seconds();
    save(total_);
    result = log_evaluation("final");
    result["train_seconds"] = seconds;
    result["images_per_s"] =
        static_cast<double>(total_) * static_cast<double>(o_.batch) / std::max(seconds, 1e-9);
    s_.directory.log(result);
    if (s_.model.moe_layers() > 0)
      s_.directory.write("routing.json", sample_routing(evaluator_, s_.plan, o_, s_.data, s_.normalization));
    write_report(s_.directory.path());
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
    std::snprintf(text, sizeof text, "test accuracy %.2f %%, dropped %.2f %%, trained %s at %.0f images/s",
                  100 * result["accuracy"].get<double>(), 100 * result["dropped"].get<double>(),
                  format_seconds(seconds).c_str(), result["images_per_s"].get<double>());
    progress_.say(text);
  }

  Session& s_;
  const Options& o_;
  Batches batches_;
  std::uint64_t per_epoch_, total_;
  moxie::Schedule schedule_;
  moxie::train::Step<Model, moxie::Supervised, Optimizer> step_;
  Evaluator evaluator_;
  Progress progress_;
  std::vector<float> inputs_, targets_;
  std::vector<std::int32_t> labels_;

  std::uint64_t at_ = 0;     // steps done; during a step, those before it
  std::uint64_t first_ = 0;  // at_ when this process began
  double seconds_before_ = 0, paused_ = 0;
  Clock::time_point started_ = Clock::now();
  Window window_;
  double learning_rate_ = 0;
  double shown_loss_ = 0, shown_accuracy_ = 0, shown_rate_ = 0, dropped_ = 0;
};

Session open_session(const TrainRequest& request) {
  const bool goes_on = request.resume.has_value();
  Options options = request.options;
  std::optional<RunDirectory> directory;
  if (goes_on) {
    directory = RunDirectory::open(*request.resume);
    options = resumed_options(*directory, options);
    options.out = request.resume->string();
  }
  check(options);
  Dataset data = load_dataset(options.data, {.seed = options.seed, .held_out = options.held_out});
  if (data.train.count < options.batch)
    moxie::throw_config("vmoe: batch is ", options.batch, ", expected at most the ",
                        data.train.count, " training images of '", options.data, "'");
  // A model that makes no sense is an error before the folder is made.
  (void)plan_model(options, data.train.shape, static_cast<Index>(data.classes.size()));
  if (!goes_on) directory = RunDirectory::create(options.out);
  return {std::move(options), std::move(*directory), std::move(data), goes_on};
}

}  // namespace

TrainEnd train(const TrainRequest& request, json& result) {
  Session session = open_session(request);
  const json config = session.config();
  if (!session.resumed) session.directory.write("config.json", config);
  std::printf("%s: %td training and %td test images of %tdx%tdx%td, %zu classes (%s)\n",
              session.options.data.c_str(), session.data.train.count, session.data.test.count,
              session.data.train.shape.height, session.data.train.shape.width,
              session.data.train.shape.channels, session.data.classes.size(),
              session.data.format.c_str());
  std::printf("%s: %s, %td parameters, %.1f million active FLOPs an image, %d threads\n",
              session.options.preset.c_str(), config["model"]["kind"].get<std::string>().c_str(),
              session.model.parameters().size(), session.plan.active_flops / 1e6,
              session.pool.workers());
  std::fflush(stdout);
  const Options& o = session.options;
  if (o.optimizer == "sgd")
    return Run(session, moxie::Sgd{.momentum = o.momentum,
                                   .decay = moxie::Decay::kernels(o.weight_decay)})(result);
  return Run(session, moxie::AdamW{.beta2 = o.beta2,
                                   .decay = moxie::Decay::kernels(o.weight_decay)})(result);
}

json evaluate(const std::filesystem::path& checkpoint, const std::string& data_path, Index threads) {
  std::filesystem::path file = checkpoint;
  if (std::filesystem::is_directory(file)) {
    const RunDirectory run = RunDirectory::open(file);
    const std::vector<std::uint64_t> steps = run.checkpoints();
    if (steps.empty()) moxie::throw_io("vmoe: '", file.string(), "' has no checkpoint yet");
    file = run.checkpoint(steps.back());
  }
  const CheckpointInfo info = CheckpointInfo::read(file);
  Options options = info.options;
  if (!data_path.empty()) options.data = data_path;
  const Dataset data = load_dataset(options.data, {.seed = options.seed, .held_out = options.held_out});
  if (data.test.shape != info.image || data.classes.size() != info.classes.size())
    moxie::throw_config("vmoe: '", options.data, "' has images of ", data.test.shape.height, "x",
                        data.test.shape.width, "x", data.test.shape.channels, " in ",
                        data.classes.size(), " classes, the model expects ", info.image.height, "x",
                        info.image.width, "x", info.image.channels, " in ", info.classes.size());
  const ModelPlan plan = plan_model(options, info.image, static_cast<Index>(info.classes.size()));
  moxie::ThreadPool pool(thread_count(threads));
  Backend backend(pool);
  const Model model = make_model(backend, options, plan);
  moxie::load_checkpoint(file, model.parameters());
  Evaluator evaluator(model, plan, options.loss == "sigmoid", options.group_images, options.batch);
  Evaluation e;
  evaluator.run(data.test, info.normalization, e);
  return {{"checkpoint", file.string()},
          {"data", options.data},
          {"images", data.test.count},
          {"step", info.step},
          {"loss", number(e.loss)},
          {"accuracy", e.accuracy},
          {"dropped", e.load.dropped_share()},
          {"layers", e.load.to_json(plan.vit.moe_blocks)}};
}

}  // namespace vmoe
