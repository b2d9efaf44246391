#pragma once

#include <limits>
#include <span>

#include "moxie/robust/lipschitz.hpp"

/// Radii within which a mixture's class cannot change, from bounds of its parts, in double on the
/// host. F^k(x) = sum over i of a_i(x) f_i^k(x); |.| is L-infinity throughout if the constants are.
///
/// They hold for mixtures of whole images whose experts have Lipschitz constants (MLPs,
/// convolutions), or for one MoE layer as a map of its own input, with routing that does not depend
/// on other images. Not for a ViT end to end: attention has no global constant.
namespace moxie {

/// Constants of a mixture at an image x.
struct MixtureConstants {
  std::span<const double> gate;      ///< [E] a_i(x)
  std::span<const double> gate_lip;  ///< [E] r_i: of a_i; 0 where the routing is hard
  detail::HostMatrix expert_lip;     ///< [E, K] of f_i^k, or [E, 1] for all classes
  double most = 1;                   ///< M >= f_i^k >= 0; 1 for probabilities
  Soundness label = Soundness::formal;
};

struct Certificate {
  /// false: the theorem does not apply here, and radius says nothing.
  bool applicable = true;
  double radius = 0;
  bool limited_by_route = false;  ///< the radius is that of the routing
  Soundness label = Soundness::formal;

  friend constexpr bool operator==(const Certificate&, const Certificate&) = default;
};

namespace detail {
/// Below a quotient of two numbers that are right to a few units in the last place.
inline double below(double radius) { return radius > 0 ? radius * (1 - 1e-13) : radius; }
inline std::size_t at(Index i) { return static_cast<std::size_t>(i); }

inline void check_class(const char* who, std::span<const double> outputs, Index y) {
  if (y < 0 || y >= static_cast<Index>(outputs.size()))
    throw_config(who, ": class ", y, " of ", outputs.size(), " classes");
}
/// A product of numbers >= 0 in which 0 takes the other away, be it infinite.
inline double times(double a, double b) { return a > 0 && b > 0 ? a * b : 0; }

/// min over j != y of (outputs[y] - outputs[j] - less) / (slopes[y] + slopes[j] or one of them).
template <class Slope>
double least_radius(std::span<const double> outputs, Index y, double less, const Slope& slope) {
  double least = std::numeric_limits<double>::infinity();
  for (Index j = 0; j < static_cast<Index>(outputs.size()); ++j) {
    if (j == y) continue;
    double margin = outputs[at(y)] - outputs[at(j)];
    // What is left of a difference of differences may be nothing but their rounding
    if (less > 0)
      margin -= less + 4.5e-16 * (std::fabs(outputs[at(y)]) + std::fabs(outputs[at(j)]) + less);
    const double s = slope(j);
    if (!(margin > 0)) return 0;
    least = std::fmin(least, s > 0 ? margin / s : std::numeric_limits<double>::infinity());
  }
  return least;
}
}  // namespace detail

/// D_k = sum over i of r_i M + a_i L_i^k, rounded up: how fast output k of the mixture can move. A
/// constant may be infinite, and does not count beside a 0.
/// @throws shape_error for constants of different numbers of experts, numeric_error for one that is
/// NaN or negative
inline double mixture_slope(const MixtureConstants& c, Index k) {
  const auto experts = static_cast<Index>(c.gate.size());
  if (static_cast<Index>(c.gate_lip.size()) != experts || c.expert_lip.rows != experts)
    throw_shape("moxie::mixture_slope: gate has ", experts, " experts, gate_lip ",
                c.gate_lip.size(), ", expert_lip ", c.expert_lip.rows, " rows");
  if (c.expert_lip.cols != 1 && k >= c.expert_lip.cols)
    throw_shape("moxie::mixture_slope: class ", k, ", expert_lip has ", c.expert_lip.cols,
                " columns, expected 1 or one a class");
  double sum = 0;
  for (Index i = 0; i < experts; ++i) {
    const double a = c.gate[detail::at(i)];
    const double r = c.gate_lip[detail::at(i)];
    const double l = c.expert_lip(i, c.expert_lip.cols == 1 ? 0 : k);
    // Not a number would be no slope, which is that of what stands still
    if (!(a >= 0 && r >= 0 && l >= 0 && c.most >= 0))
      throw_numeric("moxie::mixture_slope: expert ", i, " has the gate ", a, " of constant ", r,
                    ", outputs of constant ", l, " up to ", c.most, ", expected numbers >= 0");
    sum += detail::times(r, c.most) + detail::times(a, l);
  }
  return detail::above_sum(sum, 2 * experts);
}

/// How fast one output of a gated expert, a(x) f(x) with 0 <= a <= 1, can move away from x, whose
/// `output` is f(x): a' f' - a f = a' (f' - f) + (a' - a) f. It needs no bound of f, only its value.
inline double gated_slope(double output, double gate_lip, double expert_lip) {
  return (expert_lip + gate_lip * std::fabs(output)) * (1 + 8e-16);
}

/// R = max(0, min over j != y of (F^y - F^j) / (D_y + D_j)): both classes of a pair can move.
inline Certificate certify_mixture(std::span<const double> outputs, Index y,
                                   const MixtureConstants& c) {
  detail::check_class("moxie::certify_mixture", outputs, y);
  const double own = mixture_slope(c, y);
  return {.radius = detail::below(detail::least_radius(
              outputs, y, 0, [&](Index j) { return own + mixture_slope(c, j); })),
          .label = c.label};
}
/// The published formula, min over j of (F^y - F^j) / D_y. Constants of single classes do not
/// suffice for it: a diagnostic. Negative where another class leads.   Source: Zhang et al. 2025,
/// theorem 5.4, as transcribed by others.
inline Certificate published_radius(std::span<const double> outputs, Index y,
                                    const MixtureConstants& c) {
  detail::check_class("moxie::published_radius", outputs, y);
  double margin = std::numeric_limits<double>::infinity();
  for (Index j = 0; j < static_cast<Index>(outputs.size()); ++j)
    if (j != y) margin = std::fmin(margin, outputs[detail::at(y)] - outputs[detail::at(j)]);
  return {.radius = margin / mixture_slope(c, y), .label = Soundness::diagnostic};
}

/// A mixture of probabilities (1 - alpha) F_S + alpha F_R of which only the robust part is known:
/// F_S may be anything in [0, 1]. `robust` are the outputs F_R^k(x). Not applicable for alpha <=
/// 1/2.
inline Certificate certify_dual(std::span<const double> robust, Index y, double alpha,
                                const MixtureConstants& c) {
  detail::check_class("moxie::certify_dual", robust, y);
  if (!(alpha > 0.5 && alpha <= 1)) return {.applicable = false, .label = c.label};
  const double own = mixture_slope(c, y);
  return {.radius = detail::below(detail::least_radius(
              robust, y, (1 - alpha) / alpha, [&](Index j) { return own + mixture_slope(c, j); })),
          .label = c.label};
}
/// The same with the denominator of the published formula: a diagnostic.
inline Certificate published_dual_radius(std::span<const double> robust, Index y, double alpha,
                                         const MixtureConstants& c) {
  detail::check_class("moxie::published_dual_radius", robust, y);
  if (!(alpha > 0.5 && alpha <= 1)) return {.applicable = false, .label = Soundness::diagnostic};
  const double own = mixture_slope(c, y);
  return {
      .radius = detail::least_radius(robust, y, (1 - alpha) / alpha, [&](Index) { return own; }),
      .label = Soundness::diagnostic};
}
/// A mixture of two models with constants for both; `outputs` are those of the mixture. Of scores
/// as well, with constants of scores. The larger of this and certify_dual holds.
inline Certificate certify_dual_pair(std::span<const double> outputs, Index y, double alpha,
                                     const MixtureConstants& standard,
                                     const MixtureConstants& robust) {
  detail::check_class("moxie::certify_dual_pair", outputs, y);
  if (!(alpha >= 0 && alpha <= 1))
    throw_config("moxie::certify_dual_pair: alpha is ", alpha, ", expected one in [0, 1]");
  const auto slope = [&](Index k) {
    return detail::times(1 - alpha, mixture_slope(standard, k)) +
           detail::times(alpha, mixture_slope(robust, k));
  };
  const double own = slope(y);
  return {.radius = detail::below(
              detail::least_radius(outputs, y, 0, [&](Index j) { return own + slope(j); })),
          .label = weakest(standard.label, robust.label)};
}

/// Within this L-infinity radius the `chosen` experts of the largest logits stay the same: min over
/// i chosen and j not of (z_i - z_j) / ||w_i - w_j||_1, for an affine router z = x W + b, `kernel`
/// [D, E]. 0 for a tie, infinite if all are chosen.
/// @throws shape_error if there are not as many logits as columns, config_error for a bad number of
/// choices, numeric_error for a kernel with NaN or infinities
inline double route_radius(std::span<const double> logits, detail::HostMatrix kernel,
                           Index chosen) {
  const auto experts = static_cast<Index>(logits.size());
  if (kernel.cols != experts)
    throw_shape("moxie::route_radius: there are ", experts, " logits, the kernel has ", kernel.cols,
                " columns");
  if (chosen < 1 || chosen > experts)
    throw_config("moxie::route_radius: ", chosen, " of ", experts, " experts are chosen");
  detail::check_finite_matrix("moxie::route_radius", kernel);
  std::vector<bool> in(detail::at(experts), false);
  for (Index n = 0; n < chosen; ++n) {
    Index best = -1;
    for (Index e = 0; e < experts; ++e)
      if (!in[detail::at(e)] && (best < 0 || logits[detail::at(e)] > logits[detail::at(best)]))
        best = e;
    in[detail::at(best)] = true;
  }
  double least = std::numeric_limits<double>::infinity();
  for (Index i = 0; i < experts; ++i)
    for (Index j = 0; j < experts; ++j) {
      if (!in[detail::at(i)] || in[detail::at(j)]) continue;
      double norm = 0;
      for (Index d = 0; d < kernel.rows; ++d) norm += std::fabs(kernel(d, i) - kernel(d, j));
      const double gap = logits[detail::at(i)] - logits[detail::at(j)];
      if (!(gap > 0)) return 0;
      if (norm > 0) least = std::fmin(least, gap / detail::above_sum(norm, 2 * kernel.rows));
    }
  return detail::below(least);
}

/// A certificate that holds as long as the routing does: for hard or top-K routing, which jumps
/// where the selection changes.
inline Certificate within_route(const Certificate& c, double route) {
  if (!c.applicable || route >= c.radius) return c;
  Certificate inside = c;
  inside.radius = route > 0 ? route : 0;
  inside.limited_by_route = true;
  return inside;
}

}  // namespace moxie
