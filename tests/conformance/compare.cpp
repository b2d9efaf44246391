#include "conformance/compare.hpp"

#include <cmath>
#include <cstdio>

namespace moxie::conformance {
namespace {

/// A value in one word.
std::string text(const Json& v) {
  if (v.is_array()) return "array[" + std::to_string(v.size()) + "]";
  if (v.is_object()) return "object[" + std::to_string(v.size()) + "]";
  if (v.is_number_float()) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.17g", v.get<double>());
    return digits;
  }
  return v.dump();
}

class Walk {
 public:
  explicit Walk(double tolerance) : tolerance_(tolerance) {}

  bool same(const std::string& key, const Json& expected, const Json& got) {
    if (expected.is_object() && got.is_object()) {
      for (const auto& [name, value] : expected.items()) {
        const std::string inner = key.empty() ? name : key + "." + name;
        if (!got.contains(name)) return differ(inner, text(value), "nothing");
        if (!same(inner, value, got[name])) return false;
      }
      return true;
    }
    if (expected.is_array() && got.is_array()) {
      if (expected.size() != got.size()) return differ(key, text(expected), text(got));
      for (std::size_t i = 0; i < got.size(); ++i)
        if (!same(key + "[" + std::to_string(i) + "]", expected[i], got[i])) return false;
      return true;
    }
    if (expected.is_number() && got.is_number()) {
      if (!got.is_number_float()) return expected == got || differ(key, text(expected), text(got));
      return near(expected.get<double>(), got.get<double>()) ||
             differ(key, text(expected), text(got));
    }
    return expected == got || differ(key, text(expected), text(got));
  }
  Comparison result;

 private:
  bool near(double expected, double got) {
    const double error = std::fabs(expected - got);
    if (!(error <= tolerance_ * std::fmax(1.0, std::fabs(expected)))) return false;
    result.max_error = std::fmax(result.max_error, error);
    return true;
  }
  bool differ(std::string key, std::string expected, std::string got) {
    result.difference = {std::move(key), std::move(expected), std::move(got)};
    return false;
  }

  double tolerance_;
};

}  // namespace

Comparison compare(const Json& expected, const Json& got, double tolerance) {
  Walk walk(tolerance);
  walk.same("", expected, got);
  return walk.result;
}

}  // namespace moxie::conformance
