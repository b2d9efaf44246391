#include "options.hpp"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "moxie/core/error.hpp"
#include "nearest.hpp"

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
    return value.is_number_integer();
  }
}

void require(bool holds, const char* name, const auto& value, const char* expected) {
  if (!holds) moxie::throw_config("vmoe: ", name, " is ", value, ", expected ", expected);
}

}  // namespace

json to_json(const Options& options) {
  json out = json::object();
  visit_options(options, [&](const char*, const char* name, const auto& member, const char*) {
    out[name] = member;
  });
  return out;
}

std::vector<std::string> option_names() {
  std::vector<std::string> names;
  const Options options;
  visit_options(options, [&](const char*, const char* name, const auto&, const char*) {
    names.emplace_back(name);
  });
  return names;
}

void apply_json(const json& values, std::string_view source, Options& options) {
  if (!values.is_object())
    moxie::throw_config(source, ": expected an object of options, got ", values.type_name());
  const std::vector<std::string> names = option_names();
  for (const auto& [key, value] : values.items())
    if (std::find(names.begin(), names.end(), key) == names.end())
      moxie::throw_config(source, ": unknown key '", key, "'", suggestion(key, names));
  visit_options(options, [&](const char*, const char* name, auto& member, const char*) {
    using T = std::remove_cvref_t<decltype(member)>;
    const auto found = values.find(name);
    if (found == values.end()) return;
    if (!has_type<T>(*found))
      moxie::throw_config(source, ": '", name, "' is ", found->dump(), ", expected ",
                          type_name<T>());
    member = found->template get<T>();
  });
}

void apply_config_file(const std::string& path, Options& options) {
  std::ifstream in(path);
  if (!in) moxie::throw_io("vmoe: cannot read the configuration '", path, "'");
  json values;
  try {
    values = json::parse(in);
  } catch (const json::exception& e) {
    moxie::throw_io("vmoe: the configuration '", path, "' is not JSON: ", e.what());
  }
  // A run's own config.json keeps the options beside what was found out about data and model.
  if (values.is_object() && values.contains("options")) values = values["options"];
  apply_json(values, path, options);
}

void check(const Options& o) {
  require(!o.data.empty(), "data", "empty", "a path (--data PATH)");
  require(o.epochs > 0 && std::isfinite(o.epochs), "epochs", o.epochs, "> 0");
  require(o.batch >= 1, "batch", o.batch, ">= 1");
  require(o.group_images >= 1 && o.batch % o.group_images == 0, "group_images", o.group_images,
          moxie::detail::message("a divisor of batch, which is ", o.batch).c_str());
  require(o.learning_rate > 0, "learning_rate", o.learning_rate, "> 0");
  require(o.end_learning_rate >= 0, "end_learning_rate", o.end_learning_rate, ">= 0");
  require(o.warmup_epochs >= 0 && o.warmup_epochs <= o.epochs, "warmup_epochs", o.warmup_epochs,
          moxie::detail::message("0 to epochs, which is ", o.epochs).c_str());
  require(o.clip >= 0, "clip", o.clip, ">= 0");
  require(o.noise >= 0, "noise", o.noise, ">= 0");
  require(o.importance >= 0, "importance", o.importance, ">= 0");
  require(o.load >= 0, "load", o.load, ">= 0");
  require(o.eval_capacity_factor >= 0, "eval_capacity_factor", o.eval_capacity_factor, ">= 0");
  require(o.optimizer == "adamw" || o.optimizer == "sgd", "optimizer", "'" + o.optimizer + "'",
          "adamw or sgd");
  require(o.loss == "softmax" || o.loss == "sigmoid", "loss", "'" + o.loss + "'",
          "softmax or sigmoid");
  require(o.threads >= 0, "threads", o.threads, ">= 0");
  require(o.log_every >= 1, "log_every", o.log_every, ">= 1");
  require(o.eval_every > 0, "eval_every", o.eval_every, "> 0");
  require(o.checkpoint_every >= 0, "checkpoint_every", o.checkpoint_every, ">= 0");
  require(o.keep >= 1, "keep", o.keep, ">= 1");
  require(o.report_images >= 0, "report_images", o.report_images, ">= 0");
}

}  // namespace vmoe
