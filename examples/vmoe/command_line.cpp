#include "command_line.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "moxie/core/error.hpp"
#include "moxie/runtime/unknown_name.hpp"
#include "moxie/version.hpp"
#include "router_defaults.hpp"

namespace vmoe {
namespace {

/// "--[no-]flip" instead of "--flip,--no-flip{false}=true".
class Formatter final : public CLI::Formatter {
 public:
  Formatter() { column_width(37); }
  std::string make_option_name(const CLI::Option* option, bool is_positional) const override {
    const std::vector<std::string>& names = option->get_lnames();
    if (names.size() == 2 && names[1] == "no-" + names[0]) return "--[no-]" + names[0];
    return CLI::Formatter::make_option_name(option, is_positional);
  }
  std::string make_option_opts(const CLI::Option* option) const override {
    const std::string type = option->get_type_name().empty() ? "" : " " + option->get_type_name();
    const std::string value = option->get_default_str();
    return type + (value.empty() ? "" : " (" + value + ")");
  }
};

template <class T>
constexpr const char* type_name(std::string_view option) {
  if (option == "data" || option == "out") return "PATH";
  if constexpr (std::same_as<T, std::string>) return "TEXT";
  if constexpr (std::is_floating_point_v<T>) return "NUMBER";
  return "N";
}

std::string text_of(const std::string& value) { return value; }
std::string text_of(bool value) { return value ? "on" : "off"; }
std::string text_of(auto value) { return moxie::detail::message(value); }

/// The flags of the options, unread: what they mean is decided when the configuration file, which
/// they win over, has been read.
class OptionFlags {
 public:
  explicit OptionFlags(CLI::App& app) {
    const Options defaults;
    visit_options(defaults,
                  [&](const char* group, const char* name, const auto& member, const char* help) {
                    using T = std::remove_cvref_t<decltype(member)>;
                    const std::string flag = flag_of(name);
                    CLI::Option* added = nullptr;
                    if constexpr (std::same_as<T, bool>) {
                      added = app.add_flag(flag + ",!--no-" + flag.substr(2));
                    } else {
                      added = app.add_option(flag)->type_name(type_name<T>(name));
                    }
                    added->description(help)->group(group)->default_str(text_of(member));
                    added->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
                    flags_.emplace(name, added);
                  });
  }
  /// Sets the options whose flags were there, and adds their names.
  void apply(Options& options, OptionNames& given) const {
    for (const auto& [name, flag] : flags_) {
      if (flag->count() == 0) continue;
      apply_flag(name, flag->results().back(), options);
      given.insert(name);
    }
  }

 private:
  std::map<std::string, CLI::Option*> flags_;
};

/// What nobody knows is a mistake that wants a proposal, which CLI11 does not make.
void refuse_extras(const CLI::App& app, const char* what, const std::vector<std::string>& valid) {
  const std::vector<std::string> extras = app.remaining();
  if (extras.empty()) return;
  const std::string word = extras.front().substr(0, extras.front().find('='));
  moxie::throw_config("vmoe: unknown ", what, " '", word, "'", moxie::suggestion(word, valid));
}

std::vector<std::string> flags_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

/// All of the text, or an error.
template <class T>
void apply_number(const char* name, const std::string& text, T& value) {
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || stop != end)
    moxie::throw_config("vmoe: ", flag_of(name), " is '", text, "', expected a ",
                        std::is_integral_v<T> ? "whole " : "", "number");
}

/// The flags of `vmoe stability`, unread.
class StabilityFlags {
 public:
  explicit StabilityFlags(CLI::App& app) {
    const StabilityRequest defaults;
    app.add_option("checkpoints", paths_, "checkpoints, or folders of runs for their newest")
        ->type_name("PATH ...");
    add(app, "--data", data_, "PATH", "other test images than the first was trained beside", "");
    add(app, "--images", images_, "N", "test images, drawn by the seed; 0: all",
        text_of(defaults.images));
    add(app, "--seed", seed_, "N", "of images, directions of noise and crops",
        text_of(defaults.sweep.seed));
    add(app, "--levels", levels_, "N", "levels of noise beside none; 100 makes curves",
        text_of(defaults.sweep.levels));
    add(app, "--noise", noise_, "NUMBER",
        "standard deviation of the last level, of pixels from 0 to 1",
        text_of(defaults.sweep.largest));
  }
  StabilityRequest read() const {
    StabilityRequest request;
    request.checkpoints.assign(paths_.begin(), paths_.end());
    request.data = data_;
    if (!images_.empty()) apply_number("images", images_, request.images);
    if (!levels_.empty()) apply_number("levels", levels_, request.sweep.levels);
    if (!noise_.empty()) apply_number("noise", noise_, request.sweep.largest);
    if (!seed_.empty()) apply_number("seed", seed_, request.sweep.seed);
    return request;
  }

 private:
  static void add(CLI::App& app, const char* name, std::string& value, const char* type,
                  const char* help, const std::string& usual) {
    app.add_option(name, value, help)
        ->type_name(type)
        ->default_str(usual)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  }
  std::vector<std::string> paths_;
  std::string data_, images_, seed_, levels_, noise_;
};

/// Not a CLI11 number: it takes "010" for eight.
Index read_threads(const std::string& text) {
  Options options;
  if (!text.empty()) apply_flag("threads", text, options);
  if (options.threads < 0 || options.threads > most_threads)
    moxie::throw_config("vmoe: threads is ", text, ", expected 0 to ", most_threads);
  return options.threads;
}

}  // namespace

CommandLine CommandLine::parse(int argc, char** argv) {
  CLI::App app{"vmoe: trains and evaluates vision mixtures of experts with moxie", "vmoe"};
  app.formatter(std::make_shared<Formatter>());
  app.set_version_flag("--version", std::string(moxie::version));
  app.require_subcommand(0, 1);
  app.allow_extras();

  CommandLine line;
  std::string config, resume, target, threads;
  const auto add_text = [](CLI::App* at, const char* name, std::string& value,
                           const char* type, const char* help) {
    return at->add_option(name, value, help)
        ->type_name(type)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  };
  CLI::App* train = app.add_subcommand("train", "train a model, evaluate it, write a report");
  add_text(train, "--config", config, "FILE", "JSON file that sets options; flags win over it");
  add_text(train, "--resume", resume, "DIR", "go on with the run in this folder");
  add_text(train, "--json", line.json, "FILE", "write the final figures to this file");
  const OptionFlags flags(*train);

  CLI::App* eval = app.add_subcommand("eval", "evaluate a checkpoint on test images");
  add_text(eval, "checkpoint", target, "PATH", "a checkpoint, or a run's folder for its newest");
  add_text(eval, "--data", line.data, "PATH", "other images than those it was trained beside");
  add_text(eval, "--threads", threads, "N", "worker threads; 0: all cores")->default_str("0");
  add_text(eval, "--json", line.json, "FILE", "write the figures to this file");
  add_text(eval, "--routes", line.routes, "FILE",
           "write the experts and weights of every token, by image, to this file (moxie::save_routes)");

  CLI::App* stability = app.add_subcommand(
      "stability", "how routes and predictions change with noise, a crop and a flip");
  const StabilityFlags sweep(*stability);
  add_text(stability, "--threads", threads, "N", "worker threads; 0: all cores")->default_str("0");
  add_text(stability, "--json", line.json, "FILE", "write all figures to this file");

  CLI::App* report = app.add_subcommand("report", "write the report of a run again");
  add_text(report, "run", target, "DIR", "the run's folder");

  // Last, for commands take over what the program has.
  app.footer("vmoe COMMAND --help lists what a command takes.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    line.text = app.help();
    return line;
  } catch (const CLI::CallForVersion& e) {
    line.text = std::string(e.what()) + "\n";
    return line;
  } catch (const CLI::ParseError& e) {
    moxie::throw_config("vmoe: ", e.what());
  }
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  if (chosen.empty()) {
    refuse_extras(app, "command", {"train", "eval", "stability", "report", "--help", "--version"});
    moxie::throw_config("vmoe: no command came, expected train, eval, stability or report");
  }
  refuse_extras(*chosen.front(), "argument", flags_of(*chosen.front()));
  line.target = target;
  if (train->parsed()) {
    line.command = Command::train;
    TrainRequest& request = line.train;
    if (!config.empty()) request.given = apply_config_file(config, request.options);
    OptionNames typed;
    flags.apply(request.options, typed);
    request.given.insert(typed.begin(), typed.end());
    take_router_defaults(request.options, request.given);
    if (resume.empty()) refuse_idle_flags(request.options, typed);
    if (!request.given.contains("warmup_epochs"))
      request.options.warmup_epochs = std::min(request.options.warmup_epochs, request.options.epochs);
    if (!resume.empty()) request.resume = resume;
    return line;
  }
  if (stability->parsed()) {
    line.command = Command::stability;
    line.stability = sweep.read();
    line.stability.threads = read_threads(threads);
    return line;
  }
  line.command = eval->parsed() ? Command::eval : Command::report;
  if (target.empty())
    moxie::throw_config("vmoe ", chosen.front()->get_name(), ": no path came, expected ",
                        eval->parsed() ? "a checkpoint or a run's folder" : "a run's folder");
  line.threads = read_threads(threads);
  return line;
}

}  // namespace vmoe
