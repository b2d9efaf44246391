#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "moxie/core/error.hpp"
#include "moxie/core/view.hpp"

namespace moxie {

/// How the tokens of an image lie in the rows of a batch.
struct TokenLayout {
  Index tokens_per_image = 0;  ///< the class token included
  bool class_token = false;    ///< it comes first, so that patch i is token i + 1
};

/// Appends the pairs of two views of one image to `pairs`, the rows of `Pass::pairs` [N, 2]: (token of
/// view a, token of view b), for each patch of a that has a partner (`patch_correspondence`), by
/// patches. `image_a` and `image_b` count the images of the batch. With `class_pair` the two class
/// tokens come before them.
/// @throws shape_error if there are more patches than tokens, or a partner is no patch;
/// config_error for a class pair without class tokens
inline void append_pairs(std::span<const std::int32_t> partners, const TokenLayout& layout,
                         Index image_a, Index image_b, bool class_pair,
                         std::vector<std::int32_t>& pairs) {
  const Index first = layout.class_token ? 1 : 0;
  const Index patches = layout.tokens_per_image - first;
  if (static_cast<Index>(partners.size()) > patches)
    throw_shape("moxie::append_pairs: partners has ", partners.size(),
                " entries, expected at most ", patches,
                ", the patches of an image (layout.tokens_per_image)");
  if (class_pair && !layout.class_token)
    throw_config("moxie::append_pairs: class_pair is set, expected layout.class_token too");
  for (const std::int32_t partner : partners)
    if (partner >= patches)
      throw_shape("moxie::append_pairs: a partner is ", partner, ", expected less than ", patches,
                  ", the patches of an image (layout.tokens_per_image)");
  const auto append = [&](Index a, Index b) {
    pairs.push_back(static_cast<std::int32_t>(image_a * layout.tokens_per_image + a));
    pairs.push_back(static_cast<std::int32_t>(image_b * layout.tokens_per_image + b));
  };
  if (class_pair) append(0, 0);
  for (std::size_t i = 0; i < partners.size(); ++i)
    if (partners[i] >= 0) append(static_cast<Index>(i) + first, partners[i] + first);
}

}  // namespace moxie
