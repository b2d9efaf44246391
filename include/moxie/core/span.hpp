#pragma once

#include <span>

#include "moxie/core/error.hpp"
#include "moxie/core/view.hpp"

/// Views of memory that the standard library describes, without a copy; it must outlive the view.
/// A vector or array goes through std::span: `as_matrix(std::span(x), 64)`. Raw pointers need no
/// conversion: MatrixView{data, rows, cols, stride}.
namespace moxie {

template <class T, std::size_t N>
VectorView<T> as_vector(std::span<T, N> data) {
  return {data.data(), static_cast<Index>(data.size())};
}

/// Rows of `cols` elements, one after another.
/// Errors: shape_error unless `data` holds whole rows.
template <class T, std::size_t N>
MatrixView<T> as_matrix(std::span<T, N> data, Index cols) {
  const auto size = static_cast<Index>(data.size());
  if (cols < 1 || size % cols != 0)
    throw_shape("moxie::as_matrix: cols is ", cols, " and data has ", size,
                " elements, expected a whole number of rows");
  return {data.data(), size / cols, cols};
}

/// Rows that begin every `stride` elements.
/// Errors: shape_error if a row is longer than `stride` or the last one ends behind `data`.
template <class T, std::size_t N>
MatrixView<T> as_matrix(std::span<T, N> data, Index rows, Index cols, Index stride) {
  const auto size = static_cast<Index>(data.size());
  if (rows < 0 || cols < 0 || stride < cols)
    throw_shape("moxie::as_matrix: rows, cols and stride are ", rows, ", ", cols, " and ", stride,
                ", expected rows >= 0 and stride >= cols >= 0");
  if (rows > 0 && (cols > size || (stride > 0 && rows - 1 > (size - cols) / stride)))
    throw_shape("moxie::as_matrix: ", rows, " rows of ", cols, " elements, ", stride,
                " apart, do not fit into data, which has ", size);
  return {data.data(), rows, cols, stride};
}

}  // namespace moxie
