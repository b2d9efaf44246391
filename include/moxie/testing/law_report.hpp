#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "moxie/core/error.hpp"
#include "moxie/core/memory.hpp"
#include "moxie/core/random.hpp"

/// What the checks of laws share: what they are told, what they report, and how they draw their
/// cases.
namespace moxie::testing {

/// How far results in T may lie from the exact ones, relative to sizes above 1.
template <class T>
inline constexpr double tolerance = sizeof(T) == sizeof(float) ? 1e-5 : 1e-12;

/// |a - b| is within `by` of the larger size, sizes below 1 counting as 1; false for a NaN.
inline bool near(double a, double b, double by) {
  return std::fabs(a - b) <= by * (std::fmax)(1.0, (std::fmax)(std::fabs(a), std::fabs(b)));
}

struct LawOptions {
  Index cases = 1000;      ///< random cases to draw
  std::uint64_t seed = 1;  ///< of all of them
};

/// What a check of laws found.
struct LawReport {
  bool passed = true;
  Index cases = 0;      ///< that were tried
  std::string message;  ///< each broken law with the first case that broke it, one a line

  explicit operator bool() const { return passed; }
};

namespace detail {

/// Random choices one after another, the same for the same seed on every machine.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_(seed, 0, stream_id("laws")) {}

  double uniform() { return random_.uniform(next_++); }
  double normal() { return random_.normal(next_++); }
  bool chance(double share) { return uniform() < share; }
  /// One of [first, last].
  Index from(Index first, Index last) {
    return first + static_cast<Index>(uniform() * static_cast<double>(last - first + 1));
  }
  std::vector<double> normals(Index n) {
    std::vector<double> out(static_cast<std::size_t>(n));
    for (double& v : out) v = normal();
    return out;
  }
  /// 0 .. n - 1 in random order.
  std::vector<Index> permutation(Index n) {
    std::vector<Index> out(static_cast<std::size_t>(n));
    for (Index i = 0; i < n; ++i) out[static_cast<std::size_t>(i)] = i;
    for (Index i = n - 1; i > 0; --i)
      std::swap(out[static_cast<std::size_t>(i)], out[static_cast<std::size_t>(from(0, i))]);
    return out;
  }

 private:
  Random random_;
  std::uint64_t next_ = 0;
};

/// Collects broken laws, each once, with the case at hand.
class LawRecorder {
 public:
  template <class... Parts>
  void begin(const Parts&... parts) {
    case_ = moxie::detail::message(parts...);
    ++report_.cases;
  }
  void expect(bool holds, const std::string& otherwise) {
    if (holds) return;
    report_.passed = false;
    for (const std::string& known : broken_)
      if (known == otherwise) return;
    broken_.push_back(otherwise);
    report_.message += otherwise + " (case " + std::to_string(report_.cases) + ": " + case_ + ")\n";
  }
  const LawReport& report() const { return report_; }

 private:
  LawReport report_;
  std::string case_;
  std::vector<std::string> broken_;
};

/// Elements of a backend's memory as a vector of the host.
template <Backend B, class T>
std::vector<std::remove_const_t<T>> to_host(B& b, VectorView<T, typename B::Space> v) {
  std::vector<std::remove_const_t<T>> host(static_cast<std::size_t>(v.size));
  if (!host.empty()) b.copy_to_host(host.data(), v.data, host.size() * sizeof(T));
  return host;
}
/// The same of a matrix without gaps, row after row.
template <Backend B, class T>
std::vector<std::remove_const_t<T>> to_host(B& b, MatrixView<T, typename B::Space> m) {
  return to_host(b, VectorView<T, typename B::Space>(m.data, m.size()));
}
template <Backend B, class T, class U>
void from_host(B& b, VectorView<T, typename B::Space> v, const std::vector<U>& values) {
  if (values.empty()) return;
  if constexpr (std::same_as<T, U>) {
    b.copy_from_host(v.data, values.data(), values.size() * sizeof(T));
  } else {
    std::vector<T> host(values.size());
    for (std::size_t i = 0; i < host.size(); ++i) host[i] = static_cast<T>(values[i]);
    b.copy_from_host(v.data, host.data(), host.size() * sizeof(T));
  }
}
template <Backend B, class T, class U>
void from_host(B& b, MatrixView<T, typename B::Space> m, const std::vector<U>& values) {
  from_host(b, VectorView<T, typename B::Space>(m.data, m.size()), values);
}

/// A matrix with its memory.
template <Backend B>
class OwnedMatrix {
 public:
  using T = typename B::Scalar;

  OwnedMatrix(B& b, Index rows, Index cols)
      : backend_(&b), rows_(rows), cols_(cols), memory_(b, rows * cols) {}
  OwnedMatrix(B& b, Index rows, Index cols, const std::vector<double>& values)
      : OwnedMatrix(b, rows, cols) {
    set(values);
  }
  Matrix<B> view() const { return {memory_.view().data, rows_, cols_}; }
  ConstMatrix<B> read() const { return view(); }
  void set(const std::vector<double>& values) { from_host(*backend_, view(), values); }
  std::vector<T> get() const { return to_host(*backend_, view()); }

 private:
  B* backend_;
  Index rows_, cols_;
  Buffer<B, T> memory_;
};

/// A number that no result has: what memory that may not be touched is filled with.
inline constexpr double untouched = 12345;

template <class T>
double dot(const std::vector<T>& a, const std::vector<T>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}
template <class T>
bool all_near(const std::vector<T>& a, const std::vector<T>& b, double by) {
  for (std::size_t i = 0; i < a.size() && a.size() == b.size(); ++i)
    if (!near(static_cast<double>(a[i]), static_cast<double>(b[i]), by)) return false;
  return a.size() == b.size();
}
}  // namespace detail

}  // namespace moxie::testing
