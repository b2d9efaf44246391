#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "emulator/emulated.hpp"
#include "moxie/core/view.hpp"
#include "support/numbers.hpp"

namespace moxie::test {

/// Operands of the operations whose kernels are tested here.
template <class T>
using In = MatrixView<const T>;
template <class T>
using Out = MatrixView<T>;

/// A matrix in an emulated device's memory, which is the host's, with `gap` unused elements after
/// each row. The same seed gives the same numbers, rounded to T, whatever the gap.
template <class T>
class NnMatrix {
 public:
  NnMatrix(Index rows, Index cols, Index gap, std::uint64_t seed)
      : rows_(rows), cols_(cols), stride_(cols + gap), data_(size(rows * stride_), mark) {
    const std::vector<double> values = normals(rows * cols, seed);
    for (Index r = 0; r < rows; ++r)
      for (Index c = 0; c < cols; ++c)
        (*this)(r, c) = static_cast<T>(static_cast<float>(values[size(r * cols + c)]));
  }
  T& operator()(Index r, Index c) { return data_[size(r * stride_ + c)]; }
  MatrixView<T> view() { return {data_.data(), rows_, cols_, stride_}; }
  MatrixView<const T> read() { return view(); }
  VectorView<T> row() { return {data_.data(), cols_}; }
  VectorView<const T> read_row() { return row(); }

  std::vector<T> dense() const {
    std::vector<T> out;
    for (Index r = 0; r < rows_; ++r)
      for (Index c = 0; c < cols_; ++c) out.push_back(data_[size(r * stride_ + c)]);
    return out;
  }
  std::vector<double> doubles() const {
    const std::vector<T> values = dense();
    return {values.begin(), values.end()};
  }
  bool gaps_kept() const {
    for (Index r = 0; r < rows_; ++r)
      for (Index c = cols_; c < stride_; ++c)
        if (data_[size(r * stride_ + c)] != mark) return false;
    return true;
  }

 private:
  static constexpr T mark = 77;
  static std::size_t size(Index n) { return static_cast<std::size_t>(n); }

  Index rows_, cols_, stride_;
  std::vector<T> data_;
};

}  // namespace moxie::test
