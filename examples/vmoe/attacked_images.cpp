#include "attacked_images.hpp"

#include <algorithm>

#include "mirror.hpp"
#include "pixel_model.hpp"

namespace vmoe {

std::vector<float> attacked_images(const Subject& subject, const Sample& sample,
                                   const moxie::Pgd& pgd, std::uint64_t seed) {
  const ImageSet& images = sample.images;
  const Index values = images.shape.values();
  const PixelModel model(subject.model(), subject.info().normalization, images.shape);
  const Index batch = subject.batch();
  moxie::RunAttack attack{moxie::LayerTarget{model}, pgd, batch};
  Backend& backend = subject.model().parameters().backend();
  Mirror<float> clean(backend, batch * values), shaken(backend, batch * values);
  Mirror<std::int32_t> labels(backend, batch);
  std::vector<float> out(to_size(images.count * values));
  for (Index first = 0; first < images.count; first += batch) {
    const Index count = std::min(batch, images.count - first);
    const std::uint8_t* pixels = images.image(first);  // those of the next images follow
    for (std::size_t v = 0; v < to_size(count * values); ++v)
      clean.host[v] = static_cast<float>(pixels[v] / 255.0);
    std::copy_n(images.labels.begin() + first, count, labels.host.begin());
    clean.send(count * values);
    labels.send(count);
    attack.attack().perturb(attack.target(),
                            moxie::AttackBatch<Backend>{.x = {clean.data(), count, values},
                                                        .y = {labels.data(), count},
                                                        .seed = seed,
                                                        .first_image = first},
                            attack.state(), {shaken.data(), count, values});
    shaken.receive(count * values);
    std::copy_n(shaken.host.begin(), count * values, out.begin() + first * values);
  }
  return out;
}

}  // namespace vmoe
