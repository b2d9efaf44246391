#include "attacked_images.hpp"

#include "pixel_model.hpp"

namespace vmoe {

std::vector<float> attacked_images(const Subject& subject, const Sample& sample,
                                   const moxie::Pgd& pgd, std::uint64_t seed) {
  const ImageSet& images = sample.images;
  const Index values = images.shape.values();
  const PixelModel model(subject.model(), subject.info().normalization, images.shape);
  const Index batch = subject.batch();
  moxie::RunAttack attack{moxie::LayerTarget{model}, pgd, batch};
  std::vector<float> clean(to_size(batch * values));
  std::vector<float> out(to_size(images.count * values));
  for (Index first = 0; first < images.count; first += batch) {
    const Index count = std::min(batch, images.count - first);
    const std::uint8_t* pixels = images.image(first);  // those of the next images follow
    for (std::size_t v = 0; v < to_size(count * values); ++v)
      clean[v] = static_cast<float>(pixels[v] / 255.0);
    attack.attack().perturb(attack.target(),
                            moxie::AttackBatch<Backend>{
                                .x = {clean.data(), count, values},
                                .y = {images.labels.data() + first, count},
                                .seed = seed,
                                .first_image = first},
                            attack.state(), {out.data() + first * values, count, values});
  }
  return out;
}

}  // namespace vmoe
