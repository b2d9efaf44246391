#include "report.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "moxie/core/error.hpp"
#include "page.hpp"

namespace vmoe {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;  // ordered: the page shows the configuration as it was written

constexpr std::string_view run_html =
#include "run_html.inc"
    ;
constexpr std::string_view run_routes_js =
#include "run_routes_js.inc"
    ;
constexpr std::string_view run_js =
#include "run_js.inc"
    ;

constexpr std::size_t most_train_points = 2000;  // more than any screen has columns
constexpr std::array<const char*, 11> train_fields{
    "step",          "epoch",         "loss",         "main_loss", "aux_loss", "accuracy",
    "learning_rate", "gradient_norm", "images_per_s", "dropped",   "seconds"};
constexpr std::array<const char*, 6> eval_numbers{"epoch",   "loss",         "accuracy",
                                                  "dropped", "images_per_s", "train_seconds"};

// A place in an input, for messages: "run/metrics.jsonl:7" or "run/routing.json: images[2].pixels".
using Where = std::string;

template <class... Parts>
[[noreturn]] void fail(const Where& where, const Parts&... parts) {
  moxie::throw_io("vmoe::write_report: ", where, ": ", parts...);
}

// What came, short enough for a message.
std::string quoted(const Json& value) {
  constexpr std::size_t longest = 60;
  std::string text = value.dump(-1, ' ', true);
  if (text.size() > longest) text = text.substr(0, longest) + "...";
  return text;
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in || fs::is_directory(path)) fail(path.string(), "cannot be read; a run directory has it");
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (in.bad()) fail(path.string(), "reading failed");
  return text;
}

Json parse(const fs::path& path, std::string_view text, std::size_t first_line) {
  std::size_t before = 0;  // characters before the mistake
  std::string what;
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& e) {
    // "[json.exception...] parse error at line 1, column 2: what": that line is one of `text`, and
    // `byte` counts from 1 and is one past the end when the text stops too early.
    before = std::min(e.byte > 0 ? e.byte - 1 : 0, text.size());
    what = e.what();
    what.erase(0, what.find(": ") + 2);
  } catch (const Json::exception& e) {
    // "[json.exception...] number overflow parsing '1e999'"
    what = e.what();
    what.erase(0, what.find("] ") + 2);
    const std::size_t quote = std::min(what.find('\''), what.size() - 1);
    before = std::min(text.find(what.substr(quote + 1, what.size() - quote - 2)), text.size());
  }
  const auto lines =
      std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(before), '\n');
  fail(path.string() + ":" + std::to_string(first_line + static_cast<std::size_t>(lines)),
       "not valid JSON: ", what);
}

const Json& member(const Where& where, const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) fail(where, "\"", key, "\" is missing");
  return *found;
}

const Json& array_member(const Where& where, const Json& object, const char* key) {
  const Json& value = member(where, object, key);
  if (!value.is_array()) fail(where, "\"", key, "\" is ", quoted(value), ", expected an array");
  return value;
}

constexpr std::int64_t most_steps = std::int64_t{1} << 53;  // what the page's script counts exactly
constexpr std::int64_t most_pixels = 1 << 14;               // of a side: sizes cannot overflow
constexpr std::int64_t most_experts = 1 << 14;

std::int64_t integer(const Where& where, const Json& value, std::int64_t least, std::int64_t most) {
  if (!value.is_number_integer() || value.get<std::int64_t>() < least ||
      value.get<std::int64_t>() > most)
    fail(where, "found ", quoted(value), ", expected an integer from ", least, " to ", most);
  return value.get<std::int64_t>();
}

std::int64_t integer_member(const Where& where, const Json& object, const char* key,
                            std::int64_t least, std::int64_t most) {
  return integer(where + ": \"" + key + "\"", member(where, object, key), least, most);
}

// A number, or null: JSON has no NaN, so a diverged run logs null. Absent is null too.
Json number_or_null(const Where& where, const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return nullptr;
  if (!found->is_number())
    fail(where, "\"", key, "\" is ", quoted(*found), ", expected a number or null");
  return *found;
}

Json read_config(const fs::path& path) {
  const std::string text = read_file(path);
  Json config = parse(path, text, 1);
  if (!config.is_object())
    fail(path.string() + ":1", "found ", quoted(config), ", expected an object");
  return config;
}

struct Metrics {
  std::map<std::int64_t, Json> train, evals;  // by step
};

Json train_record(const Where& where, const Json& line) {
  Json record = Json::object();
  for (const char* key : train_fields) record[key] = number_or_null(where, line, key);
  return record;
}

Json eval_record(const Where& where, const Json& line) {
  Json record = Json::object();
  record["step"] = line["step"];
  record["final"] = line["event"] == "final";
  for (const char* key : eval_numbers) record[key] = number_or_null(where, line, key);
  record["layers"] = Json::array();
  if (!line.contains("layers")) return record;
  for (const Json& layer : array_member(where, line, "layers")) {
    if (!layer.is_object()) fail(where, "\"layers\" holds ", quoted(layer), ", expected objects");
    integer_member(where, layer, "block", 0, most_steps);
    const Json& load = array_member(where, layer, "load");
    if (load.empty()) fail(where, "\"load\" is empty, expected one share per expert");
    for (const Json& share : load)
      if (!share.is_number() && !share.is_null())
        fail(where, "\"load\" holds ", quoted(share), ", expected numbers");
    record["layers"].push_back({{"block", layer["block"]},
                                {"load", load},
                                {"dropped", number_or_null(where, layer, "dropped")}});
  }
  return record;
}

Metrics read_metrics(const fs::path& path) {
  const std::string text = read_file(path);
  const std::string_view view = text;
  Metrics metrics;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < view.size();) {
    const std::size_t end = std::min(view.find('\n', begin), view.size());
    const std::string_view raw = view.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (raw.find_first_not_of(" \t\r") == raw.npos) continue;

    const Where where = path.string() + ":" + std::to_string(number);
    const Json line = parse(path, raw, number);
    if (!line.is_object()) fail(where, "found ", quoted(line), ", expected an object");
    const Json& event = member(where, line, "event");
    const std::int64_t step = integer_member(where, line, "step", 0, most_steps);
    if (event == "train")
      metrics.train.insert_or_assign(step, train_record(where, line));
    else if (event == "eval" || event == "final")
      metrics.evals.insert_or_assign(step, eval_record(where, line));
    else
      fail(where, "\"event\" is ", quoted(event), ", expected \"train\", \"eval\" or \"final\"");
  }
  return metrics;
}

// Mean of a field over neighbouring records, leaving out what was not finite.
Json mean(const std::vector<const Json*>& records, const char* key) {
  double sum = 0;
  std::size_t count = 0;
  for (const Json* record : records) {
    if ((*record)[key].is_null()) continue;
    sum += (*record)[key].get<double>();
    ++count;
  }
  return count == 0 ? Json(nullptr) : Json(sum / static_cast<double>(count));
}

// Columns instead of records: a third of the size, and what the curves are drawn from.
Json train_columns(const std::map<std::int64_t, Json>& train) {
  const std::size_t group =
      std::max<std::size_t>(1, (train.size() + most_train_points - 1) / most_train_points);
  Json columns = Json::object();
  for (const char* key : train_fields) columns[key] = Json::array();
  columns["steps"] = Json::array();  // that a point is the mean of: the last line has what is left
  std::int64_t before = 0;
  for (auto next = train.begin(); next != train.end();) {
    std::vector<const Json*> records;
    for (; next != train.end() && records.size() < group; ++next) records.push_back(&next->second);
    for (const char* key : train_fields)
      columns[key].push_back(records.size() == 1 ? (*records.front())[key] : mean(records, key));
    const std::int64_t end = std::prev(next)->first;
    columns["steps"].push_back(std::max<std::int64_t>(1, end - before));
    before = end;
  }
  columns["per_point"] = group;
  return columns;
}

// Bytes that a base64 text stands for; nothing if it is not one.
std::optional<std::size_t> decoded_size(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;
  const auto is_digit = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' ||
           c == '/';
  };
  if (!std::all_of(text.begin(), text.end() - static_cast<std::ptrdiff_t>(padding), is_digit))
    return std::nullopt;
  return text.size() / 4 * 3 - padding;
}

struct RoutingShape {
  std::int64_t patch, rows, cols, experts;
  std::size_t layers;
};

void check_routes(const Where& where, const RoutingShape& shape, const Json& routes) {
  const auto patches = static_cast<std::size_t>(shape.rows * shape.cols);
  if (!routes.is_array() || routes.size() != shape.layers)
    fail(where, "expected an array of ", shape.layers, " layers");
  for (std::size_t layer = 0; layer < routes.size(); ++layer) {
    const Where here = where + "[" + std::to_string(layer) + "]";
    if (!routes[layer].is_array() || routes[layer].size() != patches)
      fail(here, "expected an array of ", patches, " patches (\"grid\")");
    for (std::size_t p = 0; p < patches; ++p) {
      const Json& choices = routes[layer][p];
      const auto is_expert = [&](const Json& e) {
        return e.is_number_integer() && e.get<std::int64_t>() >= -1 &&
               e.get<std::int64_t>() < shape.experts;
      };
      if (!choices.is_array() || !std::all_of(choices.begin(), choices.end(), is_expert))
        fail(here + "[" + std::to_string(p) + "]", "found ", quoted(choices),
             ", expected an array of experts below ", shape.experts,
             ", or -1 for a dropped choice");
    }
  }
}

void check_image(const Where& where, const RoutingShape& shape, const Json& image) {
  if (!image.is_object()) fail(where, "found ", quoted(image), ", expected an object");
  const std::int64_t height =
      integer_member(where, image, "height", shape.rows * shape.patch, most_pixels);
  const std::int64_t width =
      integer_member(where, image, "width", shape.cols * shape.patch, most_pixels);
  const std::int64_t channels = integer_member(where, image, "channels", 1, 3);
  if (channels == 2) fail(where, "\"channels\" is 2, expected 1 or 3");
  const Json& pixels = member(where, image, "pixels");
  const auto bytes =
      pixels.is_string() ? decoded_size(pixels.get_ref<const std::string&>()) : std::nullopt;
  const auto expected = static_cast<std::size_t>(height * width * channels);
  if (!bytes) fail(where + ".pixels", "not a base64 string");
  if (*bytes != expected)
    fail(where + ".pixels", "holds ", *bytes, " bytes, expected ", expected,
         " (height * width * channels)");
  integer_member(where, image, "label", 0, most_steps);
  integer_member(where, image, "prediction", 0, most_steps);
  number_or_null(where, image, "probability");
  check_routes(where + ".routes", shape, member(where, image, "routes"));
}

// null if the run has none. The page's script trusts what passed here.
Json read_routing(const fs::path& path) {
  if (!fs::exists(path)) return nullptr;
  const std::string text = read_file(path);
  Json routing = parse(path, text, 1);
  if (!routing.is_object())
    fail(path.string() + ":1", "found ", quoted(routing), ", expected an object");

  const Where where = path.string();
  const Json& grid = array_member(where, routing, "grid");
  if (grid.size() != 2) fail(where, "\"grid\" is ", quoted(grid), ", expected [rows, columns]");
  const Json& layers = array_member(where, routing, "layers");
  const RoutingShape shape{.patch = integer_member(where, routing, "patch", 1, most_pixels),
                           .rows = integer(where + ": \"grid\"", grid[0], 1, most_pixels),
                           .cols = integer(where + ": \"grid\"", grid[1], 1, most_pixels),
                           .experts = integer_member(where, routing, "experts", 1, most_experts),
                           .layers = layers.size()};
  integer_member(where, routing, "k", 0, most_experts);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const Where here = where + ": layers[" + std::to_string(i) + "]";
    if (!layers[i].is_object()) fail(here, "found ", quoted(layers[i]), ", expected an object");
    integer_member(here, layers[i], "block", 0, most_steps);
  }
  for (const Json& name : array_member(where, routing, "classes"))
    if (!name.is_string()) fail(where, "\"classes\" holds ", quoted(name), ", expected strings");
  const Json& images = array_member(where, routing, "images");
  for (std::size_t i = 0; i < images.size(); ++i)
    check_image(where + ": images[" + std::to_string(i) + "]", shape, images[i]);
  return routing;
}

void write_atomically(const fs::path& path, const std::string& text) {
  fs::path draft = path;
  draft += ".tmp";
  std::ofstream out(draft, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  std::error_code code;
  if (out) fs::rename(draft, path, code);
  if (!out || code) {
    std::error_code ignored;
    fs::remove(draft, ignored);
    fail(path.string(), "cannot be written", code ? ": " + code.message() : "");
  }
}

/// The preset, which says nothing of a mixture of whole networks; null if the run keeps neither.
Json name_of(const Json& config) {
  const auto options = config.find("options");
  if (options != config.end() && options->is_object()) {
    const auto model = options->find("model");
    if (model != options->end() && *model == "image_moe") return *model;
  }
  const auto preset = config.find("preset");
  return preset != config.end() && preset->is_string() ? *preset : Json(nullptr);
}

}  // namespace

void write_report(const fs::path& run_dir) {
  Json data = Json::object();
  data["config"] = read_config(run_dir / "config.json");
  const Metrics metrics = read_metrics(run_dir / "metrics.jsonl");
  data["train"] = train_columns(metrics.train);
  data["last"] = metrics.train.empty() ? Json(nullptr) : metrics.train.rbegin()->second;
  data["evals"] = Json::array();
  for (const auto& [step, record] : metrics.evals) data["evals"].push_back(record);
  data["routing"] = read_routing(run_dir / "routing.json");

  data["name"] = name_of(data["config"]);
  std::string title = "V-MoE run";
  if (data["name"].is_string()) title += ": " + data["name"].get<std::string>();

  write_atomically(run_dir / "report.html", make_page({.title = title,
                                                       .main = run_html,
                                                       .scripts = {run_routes_js, run_js},
                                                       .data = data.dump(-1, ' ', true)}));
}

}  // namespace vmoe
