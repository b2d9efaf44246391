#include "commands/flags.hpp"

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <system_error>

#include "json_text.hpp"
#include "moxie/io/atomic_file.hpp"
#include "run_directory.hpp"

namespace vmoe {

CLI::Option* add_text(CLI::App& app, const char* name, std::string& value, const char* type,
                      const char* help, const std::string& usual) {
  return app.add_option(name, value, help)
      ->type_name(type)
      ->default_str(usual)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

void ThreadsFlag::add(CLI::App& app) {
  add_text(app, "--threads", text_, "N", "worker threads; 0: all cores", "0");
}

Index ThreadsFlag::read() const {
  Options options;
  if (!text_.empty()) apply_flag("threads", text_, options);
  if (options.threads < 0 || options.threads > most_threads)
    moxie::throw_config("vmoe: threads is ", text_, ", expected 0 to ", most_threads);
  return options.threads;
}

void ResultFile::add(CLI::App& app, const char* help) {
  add_text(app, "--json", path_, "FILE", help);
}

void ResultFile::check() const { check_writable(path_); }

void ResultFile::write(const nlohmann::json& result) const {
  if (!path_.empty()) write_text(path_, json_text(result, {.indent = 2}) + "\n");
}

void check_writable(const std::string& path) {
  // A file that is begun and not committed leaves nothing.
  if (!path.empty()) const moxie::AtomicFile probe(path, "vmoe");
}

void print(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  if (std::fflush(stdout) != 0)
    moxie::throw_io("vmoe: cannot write the figures to standard output: ",
                    std::generic_category().message(errno));
}

}  // namespace vmoe
