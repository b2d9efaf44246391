#pragma once

#include "moxie/layer/pass_state.hpp"

namespace moxie::detail {

/// Rows that each hold the tokens of one image, as one row per token: [images, tokens * width] as
/// [images * tokens, width].
/// @throws shape_error unless the rows lie one right after the other
template <class T, class Space>
MatrixView<T, Space> token_rows(const char* who, const char* name, MatrixView<T, Space> images,
                                Index tokens) {
  if (images.rows > 1 && images.stride != images.cols)
    throw_shape(
        who, ": ", name, " has a stride of ", images.stride, " for ", images.cols,
        " columns, expected rows without gaps: their tokens are read as rows of one matrix");
  const Index width = images.cols / tokens;
  return {images.data, images.rows * tokens, width};
}

/// @throws config_error unless value >= 1
inline void require_positive(const char* who, const char* name, Index value) {
  if (value < 1) throw_config(who, ": ", name, " is ", value, ", expected >= 1");
}

}  // namespace moxie::detail
