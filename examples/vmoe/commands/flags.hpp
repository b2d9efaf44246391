#pragma once

#include <charconv>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <type_traits>

#include "moxie/core/error.hpp"
#include "options.hpp"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace vmoe {

/// Adds a flag, or a positional argument if the name has no dashes, whose text lands in `value`; of
/// several the last counts. Numbers are read as text as well: CLI11 takes "010" for eight.
/// @param usual the default, as the help shows it; empty: none is shown
CLI::Option* add_text(CLI::App& app, const char* name, std::string& value, const char* type,
                      const char* help, const std::string& usual = {});

/// Reads a number if `text` is not empty: all of it, or an error.
/// @throws moxie::config_error naming the flag and the text
template <class T>
void apply_number(const char* name, const std::string& text, T& value) {
  if (text.empty()) return;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || stop != end)
    moxie::throw_config("vmoe: ", flag_of(name), " is '", text, "', expected a ",
                        std::is_integral_v<T> ? "whole " : "", "number");
}

/// `--threads`, of the commands that take it beside their own flags.
class ThreadsFlag {
 public:
  void add(CLI::App& app);
  /// @returns 0 for all cores
  /// @throws moxie::config_error if it is no number from 0 to most_threads
  Index read() const;

 private:
  std::string text_;
};

/// `--json`: the file for a command's figures, or none.
class ResultFile {
 public:
  void add(CLI::App& app, const char* help);
  /// Before the work, whose figures might have nowhere to go.
  /// @throws moxie::io_error if the file cannot be written
  void check() const;
  /// @throws moxie::io_error with the system's text
  void write(const nlohmann::json& result) const;

 private:
  std::string path_;
};

/// Whether a file can be written, if there is a name; nothing of it stays.
/// @throws moxie::io_error with the system's text
void check_writable(const std::string& path);

/// Text to standard output, all of it.
/// @throws moxie::io_error with the system's text
void print(const std::string& text);

}  // namespace vmoe
