#include "held_out.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "moxie/core/error.hpp"
#include "moxie/core/random.hpp"
#include "shuffle.hpp"

namespace vmoe {
namespace {

ImageSet choose(const ImageSet& set, const std::vector<bool>& chosen, bool wanted) {
  ImageSet out;
  out.shape = set.shape;
  for (Index i = 0; i < set.count; ++i) {
    if (chosen[to_size(i)] != wanted) continue;
    out.pixels.insert(out.pixels.end(), set.image(i), set.image(i) + set.shape.values());
    out.labels.push_back(set.labels[to_size(i)]);
    ++out.count;
  }
  return out;
}

}  // namespace

void hold_out(Dataset& data, double share, std::uint64_t seed) {
  if (!(share > 0 && share < 1)) {
    moxie::throw_config("vmoe::load_dataset: ", data.source,
                        " has no test images, and the share to hold out is ", share,
                        ", expected more than 0 and less than 1 (LoadOptions::held_out)");
  }
  std::vector<std::vector<Index>> of_class(data.classes.size());
  for (Index i = 0; i < data.train.count; ++i)
    of_class[static_cast<std::size_t>(data.train.labels[to_size(i)])].push_back(i);

  std::vector<bool> held(to_size(data.train.count), false);
  bool any = false;
  for (std::size_t c = 0; c < of_class.size(); ++c) {
    const auto images = static_cast<Index>(of_class[c].size());
    if (images < 2) continue;
    const auto nearest = static_cast<Index>(std::llround(share * static_cast<double>(images)));
    const Index count = std::clamp<Index>(nearest, 1, images - 1);
    const moxie::Random random(seed, c, moxie::stream_id("vmoe held out"));
    const std::vector<std::int32_t> order = shuffled(images, random);
    for (Index i = 0; i < count; ++i)
      held[to_size(of_class[c][static_cast<std::size_t>(order[to_size(i)])])] = true;
    any = true;
  }
  if (!any) {
    moxie::throw_config("vmoe::load_dataset: ", data.source, " has no test images and ",
                        data.train.count,
                        " training images, expected a class with 2 or more to hold one out");
  }
  data.test = choose(data.train, held, true);
  data.train = choose(data.train, held, false);
  data.held_out = true;
}

}  // namespace vmoe
