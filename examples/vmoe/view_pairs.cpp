#include "view_pairs.hpp"

#include "data/image_set.hpp"

namespace vmoe {

ViewPairs::ViewPairs(const Options& o, const moxie::VitConfig& vit, Index images)
    : layout_{.tokens_per_image = vit.tokens(), .class_token = vit.class_token()},
      patch_(vit.patch),
      validity_(o.prc_validity == "content" ? moxie::PatchValidity::content
                                            : moxie::PatchValidity::none),
      class_pair_(o.prc_class_pair),
      most_(images * vit.tokens()),
      partners_(to_size(vit.grid().cells())) {
  pairs_.reserve(to_size(2 * most_));
}

std::span<const std::int32_t> ViewPairs::operator()(std::span<const moxie::ImageView> views) {
  pairs_.clear();
  const auto images = static_cast<Index>(views.size() / 2);
  for (Index i = 0; i < images; ++i) {
    const bool first_looks = moxie::has_smaller_crop(views[to_size(i)], views[to_size(images + i)]);
    const Index a = first_looks ? i : images + i;
    const Index b = first_looks ? images + i : i;
    moxie::patch_correspondence(views[to_size(a)], views[to_size(b)], patch_, validity_, partners_);
    moxie::append_pairs(partners_, layout_, a, b, class_pair_, pairs_);
  }
  return pairs_;
}

}  // namespace vmoe
