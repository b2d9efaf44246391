#pragma once

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "moxie/core/view.hpp"

/// What a golden vector is, and how a kind of them is computed.
namespace moxie::conformance {

using Json = nlohmann::json;

/// The scores that a case ranks against each other. In float a decision between two that are closer
/// than rounding may fall either way.
class Ranking {
 public:
  /// [rows x cols], row-major: the entries of a row compete.
  template <class T>
  void rows(const std::vector<T>& scores, Index cols) {
    for (std::size_t at = 0; at < scores.size(); at += static_cast<std::size_t>(cols))
      compete({scores.begin() + static_cast<Index>(at),
               scores.begin() + static_cast<Index>(at) + cols});
  }
  /// The same where the entries of a column compete.
  template <class T>
  void columns(const std::vector<T>& scores, Index cols) {
    for (Index c = 0; c < cols; ++c) {
      std::vector<double> column;
      for (auto at = static_cast<std::size_t>(c); at < scores.size();
           at += static_cast<std::size_t>(cols))
        column.push_back(static_cast<double>(scores[at]));
      compete(std::move(column));
    }
  }
  /// The same where the largest entries of the rows compete.
  template <class T>
  void row_maxima(const std::vector<T>& scores, Index cols) {
    std::vector<double> best;
    for (auto row = scores.begin(); row != scores.end(); row += cols)
      best.push_back(static_cast<double>(*std::max_element(row, row + cols)));
    compete(std::move(best));
  }
  /// The smallest difference between two competitors that are not equal.
  double smallest_gap() const { return gap_; }

 private:
  void compete(std::vector<double> scores) {
    std::sort(scores.begin(), scores.end());
    for (std::size_t i = 1; i < scores.size(); ++i)
      if (const double gap = scores[i] - scores[i - 1]; gap > 0) gap_ = std::min(gap_, gap);
  }
  double gap_ = 1e300;
};

/// Computes what a case expects, through the library: an object with the expected keys. Reals are
/// compared with a tolerance, integers and booleans exactly. @throws anything for inputs that make no
/// sense
using Run = Json (*)(const Json& inputs, Ranking& ranking);

/// Where the library runs. The device is Thrust's C++ system, or what the program is built for
/// (`device` in main.cpp).
enum Target { cpu_double, cpu_float, device_double, device_float, targets };

/// A kind of cases, by its name.
struct Kind {
  std::string_view name;
  std::array<Run, targets> run{};  ///< null where the program was built without that backend
  double float_tolerance = 1e-5;   ///< of reals computed in float
};

/// Every kind that the library has the parts for.
std::vector<Kind> all_kinds();

// One for each source in kinds/.
std::vector<Kind> capacity_kinds();
std::vector<Kind> token_choice_kinds();
std::vector<Kind> expert_choice_kinds();
std::vector<Kind> sinkhorn_kinds();
std::vector<Kind> sparse_kinds();
std::vector<Kind> soft_kinds();
std::vector<Kind> layer_kinds();
std::vector<Kind> loss_kinds();
std::vector<Kind> bias_kinds();
std::vector<Kind> pair_kinds();
std::vector<Kind> training_kinds();
std::vector<Kind> attack_kinds();
std::vector<Kind> robust_kinds();

}  // namespace moxie::conformance
