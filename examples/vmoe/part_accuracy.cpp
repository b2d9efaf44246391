#include "part_accuracy.hpp"

#include <vector>

namespace vmoe {

struct PartAccuracy::Attacks {
  Attacks(const PixelModel& model, const moxie::Pgd& pgd, moxie::RouterLoss loss, Index images)
      : experts(model, pgd, images),
        routers(model, pgd, images, loss),
        x_adv(to_size(images * model.input_width())),
        standing(to_size(images)) {}

  moxie::ExpertAttack<PixelModel> experts;
  moxie::LayeredRouterAttack<PixelModel> routers;
  std::vector<float> x_adv;
  std::vector<std::int32_t> standing;
};

PartAccuracy::PartAccuracy(const PixelModel& model, const moxie::Pgd& pgd, moxie::PartMode mode,
                           moxie::RouterLoss loss, Index images)
    : attacks_(std::make_unique<Attacks>(model, pgd, loss, images)), mode_(mode) {}
PartAccuracy::~PartAccuracy() = default;

void PartAccuracy::add(const moxie::AttackBatch<Backend>& batch) {
  const moxie::Matrix<Backend> x_adv(attacks_->x_adv.data(), batch.x.rows, batch.x.cols);
  const moxie::IntVector<Backend> standing(attacks_->standing.data(), batch.x.rows);
  experts_ += attacks_->experts(batch, mode_, x_adv, standing);
  routers_ += attacks_->routers(batch, mode_, x_adv, standing);
}

std::string PartAccuracy::undefined(const PixelModel& model, moxie::ConstMatrix<Backend> images) {
  if (model.moe_layers() == 0) return "the model has no MoE layers";
  try {
    moxie::RunAttack look(moxie::FrozenRoutes<PixelModel>(model, images.rows), moxie::Pgd{},
                          images.rows);
    look.target().record(images);
    std::vector<std::int32_t> all(to_size(images.rows));
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int32_t>(i);
    std::vector<float> scores(to_size(images.rows * model.output_width()));
    look.target().scores(images, {all.data(), images.rows},
                         {scores.data(), images.rows, model.output_width()});
  } catch (const moxie::config_error& e) {
    return e.what();  // what it says of routes that cannot be replayed
  }
  return {};
}

}  // namespace vmoe
