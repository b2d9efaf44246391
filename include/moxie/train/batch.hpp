#pragma once

#include "moxie/core/view.hpp"

namespace moxie {

/// What a training step is given, in the backend's memory.
template <class B>
struct Batch {
  ConstMatrix<B> x;       ///< [images, input width]
  ConstMatrix<B> labels;  ///< [images, classes]: one-hot, smoothed or mixed
};

}  // namespace moxie
