#include "options.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <vector>

#include "data/views.hpp"
#include "moxie/core/error.hpp"
#include "moxie/runtime/any_regularizers.hpp"
#include "moxie/runtime/unknown_name.hpp"
#include "robust_options.hpp"

namespace vmoe {
namespace {

using nlohmann::json;

template <class T>
constexpr const char* type_name() {
  if constexpr (std::same_as<T, bool>) return "true or false";
  if constexpr (std::same_as<T, std::string>) return "a string";
  if constexpr (std::same_as<T, double>) return "a number";
  if constexpr (std::is_integral_v<T>) return "a whole number";
}

constexpr std::uint64_t largest_index = std::numeric_limits<Index>::max();

template <class T>
bool has_type(const json& value) {
  if constexpr (std::same_as<T, bool>) {
    return value.is_boolean();
  } else if constexpr (std::same_as<T, std::string>) {
    return value.is_string();
  } else if constexpr (std::same_as<T, double>) {
    return value.is_number();
  } else if constexpr (std::is_unsigned_v<T>) {
    return value.is_number_unsigned();
  } else {
    return value.is_number_integer() &&
           (!value.is_number_unsigned() || value.get<std::uint64_t>() <= largest_index);
  }
}

/// All of the text, or false; no spaces, octal numbers or negative unsigned ones.
template <class T>
bool read(const std::string& text, T& value) {
  if constexpr (std::same_as<T, std::string>) {
    value = text;
    return true;
  } else if constexpr (std::same_as<T, bool>) {
    value = text == "true";
    return value || text == "false";
  } else {
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    return error == std::errc{} && stop == end;
  }
}

void require(bool holds, const char* name, const auto& value, const char* expected) {
  if (!holds) moxie::throw_config("vmoe: ", name, " is ", value, ", expected ", expected);
}

/// Whether the flags of two views make sense.
void check_consistency(const Options& o) {
  const auto one_of = [](const char* name, const std::string& value,
                         std::initializer_list<std::string_view> known, const char* expected) {
    require(std::find(known.begin(), known.end(), value) != known.end(), name, "'" + value + "'",
            expected);
  };
  require(o.prc >= 0, "prc", o.prc, ">= 0");
  one_of("prc_form", o.prc_form, {"prc", "l2", "jsd", "jsd_topk"}, "prc, l2, jsd or jsd_topk");
  one_of("prc_diagonal", o.prc_diagonal, {"matrix", "position"}, "matrix or position");
  one_of("prc_validity", o.prc_validity, {"none", "content"}, "none or content");
  one_of("prc_decay", o.prc_decay, {"none", "linear", "step"}, "none, linear or step");
  (void)view_kind(o.prc_views);
  require(o.prc_jitter >= 0 && o.prc_jitter <= 1, "prc_jitter", o.prc_jitter, "0 to 1");
  if (o.prc == 0) return;
  require(!o.dense, "prc", o.prc, "0 beside dense: it is a loss of routers");
  require(o.mixup == 0, "mixup", o.mixup, "0 beside prc: a mixed image has no view of its own");
}

}  // namespace

bool needs_pairs(std::string_view loss) { return loss.starts_with("pairwise_"); }

const char* losses_help() {
  static const std::string text = [] {
    std::string names;
    for (const std::string_view name : moxie::regularizer_names)
      if (!needs_pairs(name)) names += (names.empty() ? "" : ", ") + std::string(name);
    return "further losses, NAME or NAME=WEIGHT with commas between them: " + names;
  }();
  return text.c_str();
}

Options in_groups_of_one(Options options) {
  options.group_images = 1;
  return options;
}

json to_json(const Options& options) {
  json out = json::object();
  visit_options(options, [&](const char*, const char* name, const auto& member, const char*) {
    out[name] = member;
  });
  return out;
}

OptionNames apply_json(const json& values, std::string_view source, Options& options) {
  if (!values.is_object())
    moxie::throw_config(source, ": expected an object of options, got ", values.type_name());
  std::vector<std::string> known;
  OptionNames given;
  visit_options(options, [&](const char*, const char* name, auto& member, const char*) {
    using T = std::remove_cvref_t<decltype(member)>;
    known.emplace_back(name);
    const auto found = values.find(name);
    if (found == values.end()) return;
    if (!has_type<T>(*found))
      moxie::throw_config(source, ": '", name, "' is ", found->dump(), ", expected ",
                          type_name<T>());
    member = found->template get<T>();
    given.emplace(name);
  });
  for (const auto& item : values.items())
    if (!given.contains(item.key()))
      moxie::throw_config(source, ": unknown key '", item.key(), "'",
                          moxie::suggestion(item.key(), known));
  return given;
}

OptionNames apply_config_file(const std::string& path, Options& options) {
  std::ifstream in(path);
  json values;
  try {
    // Reading a folder fails only here.
    if (!in || in.peek() == std::ifstream::traits_type::eof())
      moxie::throw_config("vmoe: cannot read the configuration '", path,
                          "', or it is empty; expected a JSON object of options");
    values = json::parse(in);
  } catch (const json::exception& e) {
    moxie::throw_config("vmoe: the configuration '", path, "' is not JSON: ", e.what());
  }
  // A run's own config.json keeps the options beside what was found out about data and model.
  if (values.is_object() && values.contains("options")) {
    const json options_of_run = values["options"];
    values = options_of_run;
  }
  return apply_json(values, path, options);
}

void apply_flag(std::string_view name, const std::string& text, Options& options) {
  visit_options(options, [&](const char*, const char* key, auto& member, const char*) {
    using T = std::remove_cvref_t<decltype(member)>;
    if (key != name) return;
    if (!read(text, member))
      moxie::throw_config("vmoe: ", flag_of(name), " is '", text, "', expected ", type_name<T>());
  });
}

std::string flag_of(std::string_view name) {
  std::string flag = "--" + std::string(name);
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

void require_same_run(const Options& own, const Options& other, std::string_view source,
                      const OptionNames* names) {
  const json theirs = to_json(other);
  visit_options(own, [&](const char* group, const char* name, const auto& member, const char*) {
    const std::string_view key = name;
    if (std::string_view(group) == "running" || key == "data") return;
    if (names != nullptr && !names->contains(key)) return;
    if (theirs[name] != json(member))
      moxie::throw_config(source, ": ", name, " is ", theirs[name].dump(), ", but the run has ",
                          json(member).dump(), ": a resumed run keeps its options");
  });
}

void check(const Options& o) {
  visit_options(o, [](const char*, const char* name, const auto& member, const char*) {
    if constexpr (std::same_as<decltype(member), const double&>)
      require(std::isfinite(member), name, member, "a finite number");
  });
  require(!o.data.empty(), "data", "empty", "a path (--data PATH)");
  require(!o.out.empty(), "out", "empty", "a path (--out DIR)");
  require(o.channels == 0 || o.channels == 1 || o.channels == 3, "channels", o.channels,
          "0, 1 or 3");
  require(o.epochs > 0, "epochs", o.epochs, "> 0");
  require(o.batch >= 1, "batch", o.batch, ">= 1");
  require(o.group_images >= 1 && o.batch % o.group_images == 0, "group_images", o.group_images,
          moxie::detail::message("a divisor of batch, which is ", o.batch).c_str());
  require(o.learning_rate > 0, "learning_rate", o.learning_rate, "> 0");
  require(o.end_learning_rate >= 0, "end_learning_rate", o.end_learning_rate, ">= 0");
  require(o.warmup_epochs >= 0 && o.warmup_epochs <= o.epochs, "warmup_epochs", o.warmup_epochs,
          moxie::detail::message("0 to epochs, which is ", o.epochs).c_str());
  require(o.cooldown_epochs >= 0, "cooldown_epochs", o.cooldown_epochs, ">= 0");
  require(o.half_cycle >= 1, "half_cycle", o.half_cycle, ">= 1");
  require(o.clip >= 0, "clip", o.clip, ">= 0");
  require(o.noise >= 0, "noise", o.noise, ">= 0");
  require(o.importance >= 0, "importance", o.importance, ">= 0");
  require(o.load >= 0, "load", o.load, ">= 0");
  require(o.eval_capacity_factor >= 0, "eval_capacity_factor", o.eval_capacity_factor, ">= 0");
  require(o.shared_hidden >= 0, "shared_hidden", o.shared_hidden, ">= 0");
  require(!o.residual || o.shared_hidden == 0, "shared_hidden", o.shared_hidden,
          "0 beside residual: both are a perceptron beside the experts");
  check_consistency(o);
  check_robust(o);
  require(o.optimizer == "adamw" || o.optimizer == "sgd", "optimizer", "'" + o.optimizer + "'",
          "adamw or sgd");
  require(o.loss == "softmax" || o.loss == "sigmoid", "loss", "'" + o.loss + "'",
          "softmax or sigmoid");
  require(o.threads >= 0 && o.threads <= most_threads, "threads", o.threads,
          moxie::detail::message("0 to ", most_threads).c_str());
  require(o.log_every >= 1, "log_every", o.log_every, ">= 1");
  require(o.eval_every > 0, "eval_every", o.eval_every, "> 0");
  require(o.checkpoint_every >= 0, "checkpoint_every", o.checkpoint_every, ">= 0");
  require(o.keep >= 1, "keep", o.keep, ">= 1");
  require(o.report_images >= 0, "report_images", o.report_images, ">= 0");
}

}  // namespace vmoe
