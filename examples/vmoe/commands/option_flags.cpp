#include "commands/option_flags.hpp"

#include <CLI/CLI.hpp>
#include <concepts>

#include "moxie/core/error.hpp"

namespace vmoe {
namespace {

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

}  // namespace

void OptionFlags::add(CLI::App& app) {
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

void OptionFlags::apply(Options& options, OptionNames& given) const {
  for (const auto& [name, flag] : flags_) {
    if (flag->count() == 0) continue;
    apply_flag(name, flag->results().back(), options);
    given.insert(name);
  }
}

}  // namespace vmoe
