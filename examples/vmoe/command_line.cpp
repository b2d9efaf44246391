#include "command_line.hpp"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "commands/exit.hpp"
#include "commands/flags.hpp"
#include "hand_over.hpp"
#include "moxie/core/error.hpp"
#include "moxie/runtime/unknown_name.hpp"
#include "moxie/version.hpp"

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

[[noreturn]] void refuse_no_command(const CLI::App& app, const Commands& commands) {
  std::vector<std::string> valid;
  std::string list;
  for (std::size_t i = 0; i < commands.size(); ++i) {
    valid.push_back(commands[i]->name());
    if (i > 0) list.append(i + 1 == commands.size() ? " or " : ", ");
    list.append(commands[i]->name());
  }
  valid.insert(valid.end(), {"--help", "--version"});
  refuse_extras(app, "command", valid);
  moxie::throw_config("vmoe: no command came, expected ", list);
}

}  // namespace

int run_command_line(const Commands& commands, const std::string& backend, int argc, char** argv) {
  CLI::App app{"vmoe: trains and evaluates vision mixtures of experts with moxie", "vmoe"};
  app.formatter(std::make_shared<Formatter>());
  app.set_version_flag("--version", std::string(moxie::version));
  app.require_subcommand(0, 1);
  app.allow_extras();
  std::string wanted = backend;
  const auto add_backend = [&](CLI::App& to) {
    add_text(to, "--backend", wanted, "NAME", "what computes: cpu, or cuda (a GPU)", backend);
  };
  add_backend(app);
  for (const auto& command : commands) {
    CLI::App& own = *app.add_subcommand(command->name(), command->description());
    command->add(own);
    add_backend(own);
  }
  // Last, for commands take over what the program has.
  app.footer("vmoe COMMAND --help lists what a command takes.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::fputs(app.help().c_str(), stdout);
    return exit_good;
  } catch (const CLI::CallForVersion& e) {
    std::printf("%s\n", e.what());
    return exit_good;
  } catch (const CLI::ParseError& e) {
    moxie::throw_config("vmoe: ", e.what());
  }
  for (const auto& command : commands) {
    const CLI::App& chosen = *app.get_subcommand(command->name());
    if (!chosen.parsed()) continue;
    refuse_extras(chosen, "argument", flags_of(chosen));
    if (wanted != backend) hand_over(wanted, argv);
    return command->run();
  }
  refuse_no_command(app, commands);
}

std::string help_hint(const Commands& commands, int argc, char** argv) {
  for (int i = 1; i < argc; ++i)
    for (const auto& command : commands)
      if (command->name() == argv[i])
        return "vmoe " + command->name() + " --help lists what it takes";
  return "vmoe --help lists the commands";
}

}  // namespace vmoe
