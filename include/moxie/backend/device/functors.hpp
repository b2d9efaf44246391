#pragma once

#include <cstdint>

#include "moxie/backend/concept.hpp"
#include "moxie/core/rows.hpp"
#include "moxie/core/view.hpp"

/// What `DeviceBackend` runs for each index. Read: pointers of the device, sizes known to the host.
namespace moxie {

namespace detail::device {

template <class F>
struct ByRowAndColumn {
  F f;
  Index cols;
  MOXIE_HD void operator()(Index i) const {
    // on a GPU a division of 32 bits is few instructions, one of 64 bits a function
    const auto low = static_cast<std::uint32_t>(i);
    const auto width = static_cast<std::uint32_t>(cols);
    const bool narrow = static_cast<Index>(low) == i && static_cast<Index>(width) == cols;
    const Index row = narrow ? static_cast<Index>(low / width) : i / cols;
    f(row, i - row * cols);
  }
};

template <class T>
struct Fill {
  T* data;
  T value;
  MOXIE_HD void operator()(Index i) const { data[i] = value; }
};

template <class T, class F>
struct SumChunk {
  F f;
  T* sums;  // [chunks, cols]
  Index rows;
  Index cols;
  MOXIE_HD void operator()(Index chunk, Index c) const {
    const Index first = chunk * sum_chunk;
    const Index last = rows - first < sum_chunk ? rows : first + sum_chunk;
    T sum = 0;
    for (Index r = first; r < last; ++r) sum += f(r, c);
    sums[chunk * cols + c] = sum;
  }
};

template <class T>
struct AddChunks {
  const T* sums;  // [chunks, cols]
  T* out;
  Index chunks;
  Index cols;
  MOXIE_HD void operator()(Index c) const {
    T sum = 0;
    for (Index chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk * cols + c];
    out[c] += sum;
  }
};

/// One element of out. Only the device knows which expert owns the row, and whether any does.
template <class B>
struct GroupedProduct {
  Rows<B> rows;
  ConstMatrix<B> w;
  Matrix<B> out;
  bool transposed;
  MOXIE_HD void operator()(Index r, Index c) const {
    const Index expert = expert_of_row(rows.offset.data, rows.experts(), r);
    if (expert < 0) return;
    const Index inner = rows.x.cols;
    typename B::Scalar sum = 0;
    if (transposed) {
      const auto* column = w.row(expert * out.cols + c);
      for (Index k = 0; k < inner; ++k) sum += rows(r, k) * column[k];
    } else {
      for (Index k = 0; k < inner; ++k) sum += rows(r, k) * w(expert * inner + k, c);
    }
    out(r, c) = sum;
  }
};

/// One element of dw, whose rows [expert * K, expert * K + K) belong to an expert.
template <class B>
struct GroupedWeights {
  Rows<B> rows;
  Rows<B> dy;
  Matrix<B> dw;
  MOXIE_HD void operator()(Index i, Index c) const {
    const Index expert = i / rows.x.cols;
    const Index k = i % rows.x.cols;
    const Index first = rows.offset[expert];
    const Index last = rows.offset[expert + 1];
    if (first == last) return;
    typename B::Scalar sum = 0;
    for (Index r = first; r < last; ++r) sum += rows(r, k) * dy(r, c);
    dw(i, c) += sum;
  }
};

}  // namespace detail::device

}  // namespace moxie
