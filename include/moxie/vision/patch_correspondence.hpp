#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "moxie/vision/image_view.hpp"

namespace moxie {

/// Which partners are patches of the same content.
enum class PatchValidity {
  /// The point lies in the other view: what was padded in by a rotation or a translation is matched
  /// like content, as the released code of Pairwise Router Consistency does.
  none,
  /// ... and comes from what both views cropped. What a later operation cut off and another brought
  /// back as padding still counts, and so does what was erased (cutout).
  content
};

namespace detail {
inline Index patch_count(const char* name, const ImageView& view, Index patch) {
  if (patch < 1 || view.height < patch || view.width < patch || view.height % patch != 0 ||
      view.width % patch != 0)
    throw_shape("moxie::patch_correspondence: ", name, " is ", view.height, " x ", view.width,
                " pixels, expected multiples of the patch of ", patch);
  return (view.height / patch) * (view.width / patch);
}
}  // namespace detail

/// Partners of the patches of view a in view b: partners[i] is the patch of b in which the centre of
/// patch i of a lies, or -1. Patches are `patch` x `patch` pixels, numbered row by row, without a class
/// token. Several patches may share a partner; how far two patches overlap does not matter.
///
/// The released code takes for a the view with the strictly smaller crop, else the second one:
/// `has_smaller_crop(first, second)` says which.   Source: `app/vmoe/utils.py` there. A centre that
/// falls on an edge belongs to the patch that begins there, also on edge 0, which that code rejects.
///
/// @throws shape_error if the patch does not divide a view, or `partners` has not one entry for each
/// patch of a; config_error if a's map cannot be undone
inline void patch_correspondence(const ImageView& a, const ImageView& b, Index patch,
                                 PatchValidity validity, std::span<std::int32_t> partners) {
  const Index patches = detail::patch_count("a", a, patch);
  detail::patch_count("b", b, patch);
  if (static_cast<Index>(partners.size()) != patches)
    throw_shape("moxie::patch_correspondence: partners has ", partners.size(),
                " entries, expected ", patches, ", one for each patch of a");
  const ViewMap to_source = a.map.inverse();
  const ViewMap to_b = b.map * to_source;
  const Index cols = a.width / patch;
  const Index rows_b = b.height / patch;
  const Index cols_b = b.width / patch;
  const auto size = static_cast<double>(patch);
  for (Index i = 0; i < patches; ++i) {
    const ImagePoint centre{(static_cast<double>(i / cols) + 0.5) * size,
                            (static_cast<double>(i % cols) + 0.5) * size};
    const ImagePoint there = to_b(centre);
    const double row = there.y / size;
    const double col = there.x / size;
    bool found = row >= 0 && row < static_cast<double>(rows_b) && col >= 0 &&
                 col < static_cast<double>(cols_b);
    if (found && validity == PatchValidity::content) {
      const ImagePoint point = to_source(centre);
      found = a.source.contains(point) && b.source.contains(point);
    }
    partners[static_cast<std::size_t>(i)] =
        found
            ? static_cast<std::int32_t>(static_cast<Index>(row) * cols_b + static_cast<Index>(col))
            : -1;
  }
}
/// The same as a new table.
inline std::vector<std::int32_t> patch_correspondence(
    const ImageView& a, const ImageView& b, Index patch,
    PatchValidity validity = PatchValidity::none) {
  std::vector<std::int32_t> partners(static_cast<std::size_t>(detail::patch_count("a", a, patch)));
  patch_correspondence(a, b, patch, validity, partners);
  return partners;
}

/// Whether `first` is the view whose patches look for partners in `second`, and not the other way
/// round: its crop is strictly smaller.
inline bool has_smaller_crop(const ImageView& first, const ImageView& second) {
  return first.source.area() < second.source.area();
}

}  // namespace moxie
