#pragma once

#include <type_traits>

#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

/// An image cut into square patches that do not overlap. Images lie as rows, pixel by pixel,
/// channels last.
struct PatchShape {
  Index height = 0;
  Index width = 0;
  Index channels = 0;
  Index patch = 1;  ///< side of a patch; divides height and width

  /// Columns of an image row.
  MOXIE_HD constexpr Index pixels() const { return height * width * channels; }
  MOXIE_HD constexpr Index down() const { return height / patch; }
  MOXIE_HD constexpr Index across() const { return width / patch; }
  MOXIE_HD constexpr Index patches() const { return down() * across(); }
  /// Of a patch row.
  MOXIE_HD constexpr Index columns() const { return patch * patch * channels; }
};

namespace detail {
/// One call per patch; each line of it is a run of patch * channels elements in the image.
template <Backend B, bool to_patches>
struct MovePatch {
  static constexpr bool one_level = true;
  PatchShape shape;
  std::conditional_t<to_patches, ConstMatrix<B>, Matrix<B>> images;
  std::conditional_t<to_patches, Matrix<B>, ConstMatrix<B>> patches;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    const Index across = shape.width / shape.patch;
    const Index per_image = across * (shape.height / shape.patch);
    const Index image = r / per_image;
    const Index n = r % per_image;
    const Index run = shape.patch * shape.channels;
    auto* pixel =
        images.row(image) +
        ((n / across) * shape.patch * shape.width + (n % across) * shape.patch) * shape.channels;
    auto* line = patches.row(r);
    for (Index i = 0; i < shape.patch; ++i) {
      if constexpr (to_patches) {
        row_map(run, line, [=](Index j) { return pixel[j]; });
      } else {
        row_map(run, pixel, [=](Index j) { return line[j]; });
      }
      pixel += shape.width * shape.channels;
      line += run;
    }
  }
};
}  // namespace detail

/// Rows of images [images, height * width * channels] to rows of patches [images * patches, patch *
/// patch * channels]: patches of an image row by row, inside a patch (line, column, channel), as a
/// convolution kernel of flax lies.
struct GatherPatches {
  template <Backend B>
  void operator()(B& b, const PatchShape& shape, ConstMatrix<B> images, Matrix<B> patches) const {
    detail::run_or_generic(*this, b, shape, images, patches);
  }
  template <Backend B>
  static void generic(B& b, const PatchShape& shape, ConstMatrix<B> images, Matrix<B> patches) {
    b.for_each(patches.rows, detail::MovePatch<B, true>{shape, images, patches},
               detail::row_grain(patches.cols));
  }
};
inline constexpr GatherPatches gather_patches{};

/// The adjoint, which is also the inverse: every pixel lies in one patch. All of `images` is
/// overwritten.
struct ScatterPatches {
  template <Backend B>
  void operator()(B& b, const PatchShape& shape, ConstMatrix<B> patches, Matrix<B> images) const {
    detail::run_or_generic(*this, b, shape, patches, images);
  }
  template <Backend B>
  static void generic(B& b, const PatchShape& shape, ConstMatrix<B> patches, Matrix<B> images) {
    b.for_each(patches.rows, detail::MovePatch<B, false>{shape, images, patches},
               detail::row_grain(patches.cols));
  }
};
inline constexpr ScatterPatches scatter_patches{};

}  // namespace moxie
