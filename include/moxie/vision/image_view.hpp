#pragma once

#include "moxie/vision/view_map.hpp"

namespace moxie {

/// A view of an image: what was cropped from the source, and where the source's points are now.
///
///   ImageView view = ImageView::crop({y, x, h, w}, 224, 224);
///   view.then(ViewMap::flip_horizontal(224)).then(ViewMap::rotation(30, 224, 224));
struct ImageView {
  Index height = 0, width = 0;  ///< of the view, pixels
  ImageBox source{};            ///< the crop, pixels of the source
  ViewMap map{};                ///< from the source to the view

  /// `source` resized to height x width.   @throws config_error unless all sizes are positive
  static ImageView crop(const ImageBox& source, Index height, Index width) {
    return {height, width, source,
            ViewMap::crop_resize(source, static_cast<double>(height), static_cast<double>(width))};
  }
  /// After one more operation, which keeps the size.
  ImageView& then(const ViewMap& operation) {
    map = operation * map;
    return *this;
  }
  friend bool operator==(const ImageView&, const ImageView&) = default;
};

}  // namespace moxie
