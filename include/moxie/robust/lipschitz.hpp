#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include "moxie/core/error.hpp"
#include "moxie/core/view.hpp"

/// Upper bounds of Lipschitz constants, in double on the host, rounded up. Kernels are [in, out] as
/// those of Linear (y = x W); of a convolution [height * width * channels in, channels out]: zero
/// padding only lowers it.
namespace moxie {

/// What a number may be used for. The label of what is computed from several is the weakest of
/// theirs.
enum class Soundness {
  formal,     ///< a proven bound
  estimate,   ///< converges to the truth from the wrong side
  diagnostic  ///< from samples, or from a formula whose assumptions do not hold
};
constexpr Soundness weakest(Soundness a, Soundness b) { return a < b ? b : a; }

struct LipschitzBound {
  double value = 0;
  Soundness label = Soundness::formal;

  friend constexpr bool operator==(const LipschitzBound&, const LipschitzBound&) = default;
};

/// Largest slopes of activations.
inline constexpr double relu_slope = 1.0;
inline constexpr double gelu_slope =
    1.1290;  ///< both forms; their suprema are 1.128904... and 1.128993...

namespace detail {
using HostMatrix = MatrixView<const double, HostSpace>;

/// Above any sum of `terms` numbers >= 0 that was rounded to `value`.
inline double above_sum(double value, Index terms) {
  return value * (1 + 2.3e-16 * static_cast<double>(terms + 2));
}
inline double frobenius(const std::vector<double>& m) {
  double largest = 0;
  for (const double v : m) largest = std::fmax(largest, std::fabs(v));
  if (!(largest > 0)) return 0;
  double square = 0;
  for (const double v : m) square += (v / largest) * (v / largest);
  return largest * std::sqrt(square);
}
inline void check_finite_matrix(const char* who, HostMatrix w) {
  for (Index i = 0; i < w.rows; ++i)
    for (Index j = 0; j < w.cols; ++j)
      if (!std::isfinite(w(i, j)))
        throw_numeric(who, ": element [", i, ", ", j, "] is ", w(i, j),
                      ", expected a finite number");
}
}  // namespace detail

/// ||W||_F.
inline double frobenius_norm(detail::HostMatrix w) {
  std::vector<double> m;
  for (Index i = 0; i < w.rows; ++i)
    for (Index j = 0; j < w.cols; ++j) m.push_back(w(i, j));
  return detail::frobenius(m);
}

/// Gram iteration: an upper bound of the largest singular value after any number of steps, at most
/// rank^(1 / 2^(steps + 1)) times too large. As computed; `spectral_bound` adds what rounding may
/// take away.
/// Source: Delattre et al., "Efficient bound of Lipschitz constant for convolutional layers by Gram
/// iteration", 2023.
/// Cost: O(min^2 max + steps min^3).
inline double gram_iteration(detail::HostMatrix w, int steps) {
  detail::check_finite_matrix("moxie::gram_iteration", w);
  if (steps < 0) throw_config("moxie::gram_iteration: steps is ", steps, ", expected >= 0");
  // W and its transpose have the same singular values: the smaller Gram matrix will do.
  const bool flip = w.rows < w.cols;
  Index rows = flip ? w.cols : w.rows;
  const Index n = flip ? w.rows : w.cols;
  std::vector<double> g;
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < n; ++j) g.push_back(flip ? w(j, i) : w(i, j));
  double log_scale = 0;
  double share = 1;
  for (int k = 0; k < steps; ++k, share /= 2) {
    const double norm = detail::frobenius(g);
    if (!(norm > 0)) return 0;
    log_scale += share * std::log(norm);
    for (double& v : g) v /= norm;
    std::vector<double> next(static_cast<std::size_t>(n * n), 0.0);
    for (Index r = 0; r < rows; ++r) {
      const double* row = g.data() + r * n;
      for (Index i = 0; i < n; ++i)
        for (Index j = 0; j < n; ++j) next[static_cast<std::size_t>(i * n + j)] += row[i] * row[j];
    }
    g = std::move(next);
    rows = n;
  }
  const double norm = detail::frobenius(g);
  return norm > 0 ? std::exp(log_scale + share * std::log(norm)) : 0.0;
}

/// ||W v||_2 after `steps` steps of power iteration from equal entries. It comes from below: an
/// estimate, no bound.
inline LipschitzBound power_iteration(detail::HostMatrix w, int steps) {
  detail::check_finite_matrix("moxie::power_iteration", w);
  std::vector<double> v(static_cast<std::size_t>(w.cols),
                        1 / std::sqrt(static_cast<double>(w.cols)));
  std::vector<double> u(static_cast<std::size_t>(w.rows));
  const auto apply = [&] {
    for (Index i = 0; i < w.rows; ++i) {
      double sum = 0;
      for (Index j = 0; j < w.cols; ++j) sum += w(i, j) * v[static_cast<std::size_t>(j)];
      u[static_cast<std::size_t>(i)] = sum;
    }
  };
  for (int k = 0; k < steps; ++k) {
    apply();
    for (Index j = 0; j < w.cols; ++j) {
      double sum = 0;
      for (Index i = 0; i < w.rows; ++i) sum += w(i, j) * u[static_cast<std::size_t>(i)];
      v[static_cast<std::size_t>(j)] = sum;
    }
    const double norm = detail::frobenius(v);
    if (!(norm > 0)) return {0, Soundness::estimate};
    for (double& x : v) x /= norm;
  }
  apply();
  return {detail::frobenius(u), Soundness::estimate};
}

/// L-infinity to L-infinity: the largest sum of |W| into one output, of an affine layer or a
/// convolution.
inline LipschitzBound linf_bound(detail::HostMatrix kernel) {
  detail::check_finite_matrix("moxie::linf_bound", kernel);
  double largest = 0;
  for (Index o = 0; o < kernel.cols; ++o) {
    double sum = 0;
    for (Index i = 0; i < kernel.rows; ++i) sum += std::fabs(kernel(i, o));
    largest = std::fmax(largest, sum);
  }
  return {detail::above_sum(largest, kernel.rows)};
}
/// L2 to L2: the least of Gram iteration, the root of the product of the norms of rows and columns,
/// and Frobenius.
inline LipschitzBound spectral_bound(detail::HostMatrix kernel, int steps = 12) {
  const double gram = gram_iteration(kernel, steps);
  double column = 0, row = 0;
  for (Index o = 0; o < kernel.cols; ++o) {
    double sum = 0;
    for (Index i = 0; i < kernel.rows; ++i) sum += std::fabs(kernel(i, o));
    column = std::fmax(column, sum);
  }
  for (Index i = 0; i < kernel.rows; ++i) {
    double sum = 0;
    for (Index o = 0; o < kernel.cols; ++o) sum += std::fabs(kernel(i, o));
    row = std::fmax(row, sum);
  }
  const double least =
      std::fmin(gram, std::fmin(std::sqrt(row) * std::sqrt(column), frobenius_norm(kernel)));
  return {least * (1 + 1e-6)};
}

/// An MLP of two layers in L-infinity: by the product of the absolute matrices, which is tighter
/// than that of their norms. first: [in, hidden], second: [hidden, out]; biases do not matter.
/// @throws shape_error if they do not fit together
inline LipschitzBound mlp_linf_bound(detail::HostMatrix first, detail::HostMatrix second,
                                     double slope = gelu_slope) {
  if (first.cols != second.rows)
    throw_shape("moxie::mlp_linf_bound: first is [", first.rows, " x ", first.cols, "], second [",
                second.rows, " x ", second.cols, "], expected as many rows as first has columns");
  detail::check_finite_matrix("moxie::mlp_linf_bound", first);
  detail::check_finite_matrix("moxie::mlp_linf_bound", second);
  std::vector<double> into(static_cast<std::size_t>(first.cols), 0.0);
  for (Index i = 0; i < first.rows; ++i)
    for (Index h = 0; h < first.cols; ++h)
      into[static_cast<std::size_t>(h)] += std::fabs(first(i, h));
  double largest = 0;
  for (Index o = 0; o < second.cols; ++o) {
    double sum = 0;
    for (Index h = 0; h < second.rows; ++h)
      sum += std::fabs(second(h, o)) * into[static_cast<std::size_t>(h)];
    largest = std::fmax(largest, sum);
  }
  return {detail::above_sum(slope * largest, first.rows + second.rows + 2)};
}
/// The same in L2.
inline LipschitzBound mlp_l2_bound(detail::HostMatrix first, detail::HostMatrix second,
                                   double slope = gelu_slope) {
  return {slope * spectral_bound(first).value * spectral_bound(second).value * (1 + 1e-15)};
}
/// A residual block around a branch.
constexpr LipschitzBound residual_bound(LipschitzBound branch) {
  return {(1 + branch.value) * (1 + 4e-16), branch.label};
}
/// Layers one after the other.
constexpr LipschitzBound chain(LipschitzBound a, LipschitzBound b) {
  return {a.value * b.value * (1 + 4e-16), weakest(a.label, b.label)};
}
/// One class probability of a softmax of scores with this bound in L-infinity, or one gate of a
/// softmax router.
constexpr LipschitzBound softmax_coordinate(LipschitzBound scores) {
  return {0.5 * scores.value, scores.label};
}

}  // namespace moxie
