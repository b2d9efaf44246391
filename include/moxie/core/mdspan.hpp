#pragma once

#include <concepts>
#include <cstddef>

#include "moxie/core/error.hpp"
#include "moxie/core/view.hpp"

/// Views of std::mdspan, without a copy; its memory must outlive the view. Nothing is included for it: what
/// has its members will do, such as the implementations for compilers whose library has none.
namespace moxie {

/// A std::mdspan of any layout with strides, over plain memory.
template <class M>
concept StridedMdspan = M::rank()
>= 1 && requires(const M& m, std::size_t r) {
  typename M::element_type;
  { m.data_handle() } -> std::same_as<typename M::element_type*>;
  { m.extent(r) } -> std::convertible_to<Index>;
  { m.stride(r) } -> std::convertible_to<Index>;
};

/// One axis is a VectorView. Of several, the last is the columns and the others are folded into the rows: an
/// mdspan [images, tokens, width] is a matrix [images * tokens, width].
/// Errors: shape_error unless elements of the last axis lie side by side and the other axes can be folded.
template <StridedMdspan M>
auto as_view(const M& m) {
  using T = typename M::element_type;
  constexpr std::size_t last = M::rank() - 1;
  const auto extent = [&m](std::size_t r) { return static_cast<Index>(m.extent(r)); };
  const auto stride = [&m](std::size_t r) { return static_cast<Index>(m.stride(r)); };
  if (extent(last) > 1 && stride(last) != 1)
    throw_shape("moxie::as_view: the last axis of the mdspan has stride ", stride(last),
                ", expected 1 (layout_right)");
  if constexpr (last == 0) {
    return VectorView<T>(m.data_handle(), extent(0));
  } else {
    Index rows = 1;
    Index apart = extent(last);  // elements between two rows
    bool known = false;
    for (std::size_t r = last; r-- > 0; rows *= extent(r)) {
      if (extent(r) <= 1) continue;
      if (known && stride(r) != rows * apart)
        throw_shape("moxie::as_view: axis ", r, " of the mdspan has stride ", stride(r),
                    ", expected ", rows * apart,
                    ", so that it continues the rows of the axes behind it");
      if (!known) apart = stride(r);
      known = true;
    }
    return MatrixView<T>(m.data_handle(), rows, extent(last), apart);
  }
}

}  // namespace moxie
