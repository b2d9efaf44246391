#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "moxie/backend/cpu.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "moxie/runtime/make_layer.hpp"
#include "options.hpp"

namespace bench {

using B = moxie::CpuBackend<float>;

inline constexpr std::array<std::string_view, 3> family_names = {"route", "layer", "telemetry"};
inline constexpr std::array<std::string_view, 5> logits_names = {"uniform", "zipf", "hotspot",
                                                                 "collapse", "trace"};
inline constexpr std::array<std::string_view, 2> pass_names = {"forward", "backward"};
/// What layers are compared with: no routers, but values of the same axis.
inline constexpr std::array<std::string_view, 3> baseline_names = {"dense", "naive_loop",
                                                                   "eigen_loop"};

/// One row of the results: a value on each axis.
struct Case {
  std::string family, router, capacity, logits;
  Index experts = 0;
  Index tokens = 0;
  bool backward = false;

  bool is_dense() const { return router == "dense"; }
  bool is_loop() const { return router == "naive_loop" || router == "eigen_loop"; }
};

/// Everything that the cases of a run share.
struct Setup {
  Options options;
  moxie::RouterRegistry<B> registry;
  mutable moxie::ThreadPool pool;
  mutable B backend;
  mutable std::shared_ptr<void> kept;  // what the row that is being measured works on (measure.hpp)
  mutable std::string kept_name;

  Setup(Options o, moxie::RouterRegistry<B> routers)
      : options(std::move(o)),
        registry(std::move(routers)),
        pool(static_cast<int>(options.threads)),
        backend(pool) {}
};

/// Family, then name:value of each axis: what bench/compare.py reads. A dense network has neither experts nor routes.
inline std::string name_of(const Case& c, const Options& o) {
  std::string name = c.family + "/router:" + c.router;
  const auto axis = [&name](std::string_view what, const auto& value) {
    name += moxie::detail::message("/", what, ":", value);
  };
  if (!c.is_dense()) {
    axis("capacity", c.capacity);
    axis("logits", c.logits);
    axis("experts", c.experts);
  }
  axis("tokens", c.tokens);
  if (!c.is_dense()) axis("group", o.group);
  axis("k", o.k);
  if (c.family == "layer") {
    axis("width", o.width);
    axis("hidden", o.hidden);
  }
  axis("pass", !c.backward ? "forward" : c.family == "layer" ? "forward_backward" : "backward");
  return name;
}

/// A capacity of the axis: a rule of the registry, or room for so many rows a token whatever the router. The rules multiply
/// by the choices of a token, of which routers whose experts choose have one, so that a factor means another size there.
struct Capacity {
  moxie::CapacityConfig config;
  double rows = 0;  ///< > 0: slots for so many rows a token

  /// Slots of an expert are ceil(rows * S / E).
  moxie::CapacityConfig of(Index group, Index experts) const {
    moxie::CapacityConfig c = config;
    if (rows > 0)
      c.slots = static_cast<Index>(
          std::ceil(rows * static_cast<double>(group) / static_cast<double>(experts)));
    return c;
  }
};

/// "rows-2", "ceil-1.25", "dropless-bpr", "slots-64", "vmoe-1-bpr-next_choice".
/// @throws config_error for anything else
inline Capacity parse_capacity(const std::string& text) {
  const std::vector<std::string> words = detail::split(text, '-');
  const auto wrong = [&](const auto&... why) {
    moxie::throw_config("--capacities: '", text, "': ", why...);
  };
  Capacity capacity;
  moxie::CapacityConfig& c = capacity.config;
  std::size_t next = 1;
  const auto number = [&](std::string_view what, std::string_view example) {
    if (next == words.size()) wrong("expected a ", what, ", ", example);
    const std::string& word = words[next++];
    double value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (error != std::errc{} || end != word.data() + word.size() || !(value > 0))
      wrong("the ", what, " is '", word, "', expected a number > 0");
    return value;
  };
  if (words[0] == "rows") {
    capacity.rows = number("number of rows a token", "rows-2");
  } else if (words[0] == "slots") {
    if (words.size() < 2) wrong("expected slots-N");
    c.slots = detail::whole_number("--capacities: slots", words[next++]);
  } else {
    c.rule = words[0];
    if (std::find(moxie::capacity_names.begin(), moxie::capacity_names.end(), c.rule) ==
        moxie::capacity_names.end())
      moxie::throw_unknown_name("--capacities", "rule", c.rule, moxie::capacity_names);
    if (c.rule != "dropless") c.factor = number("factor", c.rule + "-1.25");
  }
  const auto is_one_of = [](const std::string& word, const auto& names) {
    return std::find(names.begin(), names.end(), word) != names.end();
  };
  for (; next < words.size(); ++next) {
    if (is_one_of(words[next], moxie::priority_names)) {
      c.priority = words[next];
    } else if (is_one_of(words[next], moxie::overflow_names)) {
      c.overflow = words[next];
    } else {
      wrong("'", words[next], "' is neither a priority nor an overflow policy");
    }
  }
  return capacity;
}
/// The capacity that gives all families the same room: K rows a token.
inline std::string equal_rows(const Options& o) { return moxie::detail::message("rows-", o.k); }

/// The layer of a case; of a loop, the layer that it imitates.
inline moxie::MoeConfig config_of(const Case& c, const Options& o) {
  moxie::MoeConfig m;
  m.shape = {.width = o.width, .experts = c.experts, .group = o.group};
  m.router.name = c.is_loop() ? "softmax_token_choice" : c.router;
  m.router.k = o.k;
  m.capacity = parse_capacity(c.capacity).of(o.group, c.experts);
  m.expert.hidden = o.hidden;
  return m;
}

/// Why this combination makes no sense; empty if it does. Declares a layer, which takes no memory.
inline std::string nonsense(const Case& c, const Setup& setup) {
  const Options& o = setup.options;
  const auto why = [](const auto&... parts) { return moxie::detail::message(parts...); };
  if (c.family == "route" && (c.is_loop() || c.is_dense()))
    return why("router '", c.router, "' is a whole layer: it has no family 'route'");
  if (c.is_dense()) return "";
  if (c.tokens % o.group != 0)
    return why("--tokens: ", c.tokens, " is no multiple of --group ", o.group);
  if (c.family == "layer" && c.experts > o.width)
    return why("--experts: ", c.experts, " is more than --width ", o.width,
               ", so the input cannot carry the logits");
  const moxie::MoeConfig config = config_of(c, o);
  if (c.is_loop() && (config.capacity.priority != "first" || config.capacity.overflow != "drop"))
    return why("router '", c.router, "' knows no capacity '", c.capacity, "'");
  try {
    (void)moxie::make_layer(moxie::root(setup.backend), config, setup.registry);
  } catch (const moxie::error& e) {
    return e.what();
  }
  return "";
}

namespace detail {
template <class Names>
void check_names(std::string_view flag, const std::vector<std::string>& given,
                 std::string_view kind, const Names& known) {
  for (const std::string& name : given)
    if (std::find(known.begin(), known.end(), name) == known.end())
      moxie::throw_unknown_name(flag, kind, name, known);
}
}  // namespace detail

/// All routers of the registry, and soft.
inline std::vector<std::string> routers_of(const Setup& setup) {
  std::vector<std::string> names;
  for (const std::string_view name : setup.registry.names()) names.emplace_back(name);
  names.emplace_back("soft");
  return names;
}

/// The cases that the options ask for, each once, without those that make no sense.
/// @throws config_error for a value that there is not, or if no case is left
inline std::vector<Case> cases_of(const Setup& setup) {
  const Options& o = setup.options;
  std::vector<std::string> routers = routers_of(setup);
  std::vector<std::string> with_baselines = routers;
  with_baselines.insert(with_baselines.end(), baseline_names.begin(), baseline_names.end());
  detail::check_names("--families", o.families, "family", family_names);
  detail::check_names("--routers", o.routers, "router", with_baselines);
  detail::check_names("--logits", o.logits, "distribution of logits", logits_names);
  detail::check_names("--passes", o.passes, "pass", pass_names);
  for (const std::string& capacity : o.capacities) (void)parse_capacity(capacity);
  if (o.trace.empty() && std::find(o.logits.begin(), o.logits.end(), "trace") != o.logits.end())
    moxie::throw_config("--logits: 'trace' needs --trace FILE");

  std::vector<Case> cases;
  std::string refused;
  std::set<std::string> taken;
  const auto add = [&](const Case& c) {
    if (std::string why = nonsense(c, setup); !why.empty()) {
      if (refused.empty()) refused = std::move(why);
      return;
    }
    if (taken.insert(name_of(c, o)).second) cases.push_back(c);
  };
  struct Axes {
    std::vector<std::string> families, routers, capacities, logits;
    std::vector<Index> experts, tokens;
    std::vector<std::string> passes;
  };
  const auto add_product = [&add](const Axes& a) {
    for (const std::string& family : a.families)
      for (const std::string& router : a.routers)
        for (const std::string& capacity : a.capacities)
          for (const std::string& logits : a.logits)
            for (const Index experts : a.experts)
              for (const Index tokens : a.tokens)
                for (const std::string& pass : a.passes)
                  add({family, router, capacity, logits, experts, tokens, pass == "backward"});
  };
  const std::vector<std::string> both = {"forward", "backward"};
  const std::string mine = o.trace.empty() ? "zipf" : "trace";
  if (o.all || o.chooses()) {
    const auto or_else = [](const auto& given, const auto& otherwise) {
      return given.empty() ? otherwise : given;
    };
    using Names = std::vector<std::string>;
    using Numbers = std::vector<Index>;
    Names logits = o.all ? Names{"uniform", "zipf", "hotspot", "collapse"} : Names{mine};
    if (o.all && !o.trace.empty()) logits.emplace_back("trace");
    Names families = or_else(o.families, Names{"route", "layer"});
    families.erase(std::remove(families.begin(), families.end(), "telemetry"), families.end());
    const Names capacities =
        o.all ? Names{equal_rows(o), "ceil-1",        "ceil-1.25",         "ceil-2",
                      "dropless",    "ceil-1.25-bpr", "ceil-1-next_choice"}
              : Names{equal_rows(o)};
    add_product({families, or_else(o.routers, o.all ? with_baselines : routers),
                 or_else(o.capacities, capacities), or_else(o.logits, logits),
                 or_else(o.experts, o.all ? Numbers{8, 32, 128} : Numbers{32}),
                 or_else(o.tokens, o.all ? Numbers{1024, 4096, 16384} : Numbers{4096}),
                 or_else(o.passes, both)});
    if (cases.empty() && !families.empty()) moxie::throw_config(refused);
    return cases;
  }
  const std::string usual = equal_rows(o);
  const std::string softmax = "softmax_token_choice";
  // What is to be compared: layers that drop nothing compute K rows a token, as the dense network does.
  for (const std::string& router : with_baselines) {
    const bool has_dropless =
        nonsense({"layer", router, "dropless", "uniform", 32, 4096, false}, setup).empty();
    const std::string room = has_dropless ? "dropless" : usual;
    add_product({{"layer"}, {router}, {room}, {"uniform"}, {32}, {4096}, both});
  }
  // Each axis is varied while the others stand still.
  add_product({{"route"}, routers, {usual}, {mine}, {32}, {4096}, both});
  const std::vector<std::string> three = {softmax, "sinkhorn_token_choice",
                                          "softmax_expert_choice"};
  add_product({{"route"}, three, {usual}, {mine}, {8, 128}, {4096}, {"forward"}});
  add_product({{"route"}, three, {usual}, {mine}, {32}, {1024, 16384}, {"forward"}});
  add_product({{"layer"}, routers, {usual}, {mine}, {32}, {4096}, both});
  add_product({{"layer"}, {softmax}, {usual}, {"hotspot", "collapse"}, {32}, {4096}, both});
  add_product({{"layer"},
               {softmax},
               {"ceil-1.25", "ceil-2", "dropless", "ceil-1.25-bpr", "ceil-1-next_choice"},
               {mine},
               {32},
               {4096},
               both});
  add_product({{"layer"}, {softmax}, {usual}, {mine}, {8, 128}, {4096}, both});
  add_product({{"layer"}, {"eigen_loop", "naive_loop"}, {usual}, {mine}, {32}, {4096}, both});
  if (cases.empty()) moxie::throw_config(refused);
  return cases;
}

}  // namespace bench
