#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "moxie/nn/vit_config.hpp"
#include "moxie/vision/patch_correspondence.hpp"
#include "moxie/vision/stacked_pairs.hpp"
#include "options.hpp"

namespace vmoe {

/// The tokens that correspond in the two views of the images of a batch: what Pass::pairs takes.
class ViewPairs {
 public:
  /// `images` of a batch.
  ViewPairs(const Options& options, const moxie::VitConfig& vit, Index images);

  /// Pairs that there can be.
  Index most() const { return most_; }
  /// [N, 2], N at most `most()`. `views`: first those of all images, then their other ones (Batches). Valid until the next
  /// call. As in the released code of Pairwise Router Consistency, patches of the view with the smaller
  /// crop look for partners, or of the second one.
  std::span<const std::int32_t> operator()(std::span<const moxie::ImageView> views);

 private:
  moxie::TokenLayout layout_;
  Index patch_;
  moxie::PatchValidity validity_;
  bool class_pair_;
  Index most_;
  std::vector<std::int32_t> partners_, pairs_;
};

}  // namespace vmoe
