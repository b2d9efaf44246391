#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "moxie/backend/cpu.hpp"
#include "moxie/core/random.hpp"

/// Obvious double loops that the CPU backend is compared with, and matrices to compare on.
namespace moxie::test {

inline std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// The instruction sets of this machine.
inline std::vector<Level> levels() {
  std::vector<Level> all;
  for (const Level level : {Level::baseline, Level::avx2, Level::avx512}) {
    if (level <= machine_level()) all.push_back(level);
  }
  return all;
}

/// A matrix in memory of exactly the size it needs, with rows `gap` elements longer than it is wide; what
/// lies between the rows must never change.
template <class T>
class Dense {
 public:
  static constexpr T untouched = static_cast<T>(-12345);

  Dense(Index rows, Index cols, Index gap, std::uint64_t seed)
      : rows_(rows),
        cols_(cols),
        stride_(cols + gap),
        data_(at(rows > 0 ? (rows - 1) * stride_ + cols : 0), untouched) {
    const Random random(seed, 0, 0);
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < cols; ++j) {
        (*this)(i, j) = static_cast<T>(
            random.uniform(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(j)) - 0.5);
      }
    }
  }
  T& operator()(Index i, Index j) { return data_[at(i * stride_ + j)]; }
  T operator()(Index i, Index j) const { return data_[at(i * stride_ + j)]; }
  MatrixView<T> view() { return {data_.data(), rows_, cols_, stride_}; }
  MatrixView<const T> view() const { return {data_.data(), rows_, cols_, stride_}; }
  void fill(T value) {
    for (Index i = 0; i < rows_; ++i) {
      for (Index j = 0; j < cols_; ++j) (*this)(i, j) = value;
    }
  }
  bool gaps_untouched() const {
    for (Index i = 0; i + 1 < rows_; ++i) {
      for (Index j = cols_; j < stride_; ++j) {
        if ((*this)(i, j) != untouched) return false;
      }
    }
    return true;
  }
  const std::vector<T>& elements() const { return data_; }

 private:
  Index rows_, cols_, stride_;
  std::vector<T> data_;
};

/// Error allowed for a sum of `terms` products of numbers below 1/2.
template <class T>
double sum_error(Index terms) {
  return 2 * static_cast<double>(std::numeric_limits<T>::epsilon()) *
         static_cast<double>(terms + 4);
}

template <class T>
double element(Op op, MatrixView<const T> m, Index i, Index j) {
  return static_cast<double>(op == Op::none ? m(i, j) : m(j, i));
}

/// The largest error of c = alpha op(a) op(b) + beta before. NaN counts as infinite.
template <class T>
double product_error(Op op_a, Op op_b, T alpha, MatrixView<const T> a, MatrixView<const T> b,
                     T beta, MatrixView<const T> before, MatrixView<const T> c) {
  const Index inner = op_a == Op::none ? a.cols : a.rows;
  double worst = 0;
  for (Index i = 0; i < c.rows; ++i) {
    for (Index j = 0; j < c.cols; ++j) {
      double sum = 0;
      for (Index p = 0; p < inner; ++p) sum += element(op_a, a, i, p) * element(op_b, b, p, j);
      sum *= static_cast<double>(alpha);
      if (beta != T(0)) sum += static_cast<double>(beta) * static_cast<double>(before(i, j));
      const double error = sum - static_cast<double>(c(i, j));
      if (!(error <= worst && -error <= worst)) worst = error < 0 ? -error : error;
      if (error != error) return std::numeric_limits<double>::infinity();
    }
  }
  return worst;
}

}  // namespace moxie::test
