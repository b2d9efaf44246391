#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "moxie/core/error.hpp"
#include "moxie/version.hpp"
#include "nearest.hpp"
#include "report/report.hpp"
#include "run_directory.hpp"
#include "trainer.hpp"

namespace {

enum Exit { exit_good = 0, exit_failed = 1, exit_usage = 2, exit_interrupted = 130 };

std::string flag_of(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return "--" + name;
}

/// One flag for each option; boolean ones also as --no-NAME.
void add_options(CLI::App& app, vmoe::Options& options) {
  vmoe::visit_options(options, [&](const char* group, const char* name, auto& member,
                                   const char* help) {
    const std::string flag = flag_of(name);
    CLI::Option* added = nullptr;
    if constexpr (std::same_as<std::remove_cvref_t<decltype(member)>, bool>) {
      added = app.add_flag(flag + ",!--no-" + flag.substr(2), member, help);
      added->default_str(member ? "true" : "false");
    } else {
      added = app.add_option(flag, member, help)->capture_default_str();
    }
    added->group(group);
  });
}

/// A flag nobody knows is a mistake that wants a proposal, which CLI11 does not make.
void refuse_extras(const CLI::App& app) {
  const std::vector<std::string> extras = app.remaining();
  if (extras.empty()) return;
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  const std::string word = extras.front().substr(0, extras.front().find('='));
  throw CLI::ExtrasError("vmoe: unknown argument '" + word + "'" + vmoe::suggestion(word, names),
                         CLI::ExitCodes::ExtrasError);
}

void write_result(const std::string& file, const nlohmann::json& result) {
  if (!file.empty()) vmoe::write_text(file, result.dump(2) + "\n");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"vmoe: trains and evaluates vision mixtures of experts with moxie"};
  app.set_version_flag("--version", std::string(moxie::version));
  app.require_subcommand(1);

  // Flags are parsed over what the configuration file says, so the file is read first.
  vmoe::TrainRequest request;
  std::string config, resume, json_file;
  CLI::App* train = app.add_subcommand("train", "train a model, evaluate it, write a report");
  train->allow_extras();
  train->add_option("--config", config, "JSON file that sets options; flags go before it");
  train->add_option("--resume", resume, "go on with the run in this folder");
  train->add_option("--json", json_file, "write the final figures to this file");
  add_options(*train, request.options);

  std::string checkpoint, data;
  vmoe::Index threads = 0;
  CLI::App* eval = app.add_subcommand("eval", "evaluate a checkpoint on test images");
  eval->allow_extras();
  eval->add_option("checkpoint", checkpoint, "a checkpoint, or a run's folder for its newest")->required();
  eval->add_option("--data", data, "other images than those it was trained beside");
  eval->add_option("--threads", threads, "worker threads; 0: all cores");
  eval->add_option("--json", json_file, "write the figures to this file");

  std::string run;
  CLI::App* report = app.add_subcommand("report", "write the report of a run again");
  report->allow_extras();
  report->add_option("run", run, "the run's folder")->required();

  try {
    app.parse(argc, argv);
    for (const CLI::App* chosen : app.get_subcommands()) refuse_extras(*chosen);
    if (!config.empty()) {
      vmoe::apply_config_file(config, request.options);
      app.parse(argc, argv);
    }
    if (train->parsed()) {
      if (!resume.empty()) request.resume = resume;
      nlohmann::json result;
      if (vmoe::train(request, result) == vmoe::TrainEnd::interrupted) return exit_interrupted;
      write_result(json_file, result);
      if (resume.empty()) resume = request.options.out;
      std::printf("report: %s/report.html\n", resume.c_str());
    } else if (eval->parsed()) {
      const nlohmann::json result = vmoe::evaluate(checkpoint, data, threads);
      write_result(json_file, result);
      std::printf("%s\n", result.dump(2).c_str());
    } else {
      vmoe::write_report(run);
      std::printf("report: %s/report.html\n", run.c_str());
    }
    return exit_good;
  } catch (const CLI::Success& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    std::fprintf(stderr, "%s\nvmoe --help and vmoe train --help list what there is\n", e.what());
    return exit_usage;
  } catch (const moxie::config_error& e) {
    std::fprintf(stderr, "vmoe: error: %s\n", e.what());
    return exit_usage;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "vmoe: error: %s\n", e.what());
    return exit_failed;
  }
}
