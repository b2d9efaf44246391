#include "part_accuracy.hpp"

#include <numeric>

#include "mirror.hpp"

namespace vmoe {

struct PartAccuracy::Attacks {
  Attacks(const PixelModel& model, const moxie::Pgd& pgd, moxie::RouterLoss loss, Index images)
      : experts(model, pgd, images),
        routers(model, pgd, images, loss),
        x_adv(model.parameters().backend(), images * model.input_width()),
        standing(model.parameters().backend(), images) {}

  moxie::ExpertAttack<PixelModel> experts;
  moxie::LayeredRouterAttack<PixelModel> routers;
  moxie::Buffer<Backend, float> x_adv;
  moxie::Buffer<Backend, std::int32_t> standing;
};

PartAccuracy::PartAccuracy(const PixelModel& model, const moxie::Pgd& pgd, moxie::PartMode mode,
                           moxie::RouterLoss loss, Index images)
    : attacks_(std::make_unique<Attacks>(model, pgd, loss, images)), mode_(mode) {}
PartAccuracy::~PartAccuracy() = default;

void PartAccuracy::add(const moxie::AttackBatch<Backend>& batch) {
  const moxie::Matrix<Backend> x_adv(attacks_->x_adv.view().data, batch.x.rows, batch.x.cols);
  const moxie::IntVector<Backend> standing(attacks_->standing.view().data, batch.x.rows);
  experts_ += attacks_->experts(batch, mode_, x_adv, standing);
  routers_ += attacks_->routers(batch, mode_, x_adv, standing);
}

std::string PartAccuracy::undefined(const PixelModel& model, moxie::ConstMatrix<Backend> images) {
  if (model.moe_layers() == 0) return "the model has no MoE layers";
  try {
    moxie::RunAttack look(moxie::FrozenRoutes<PixelModel>(model, images.rows), moxie::Pgd{},
                          images.rows);
    look.target().record(images);
    Backend& backend = model.parameters().backend();
    Mirror<std::int32_t> all(backend, images.rows);
    std::iota(all.host.begin(), all.host.end(), 0);
    all.send(images.rows);
    const moxie::Buffer<Backend, float> scores(backend, images.rows * model.output_width());
    look.target().scores(images, {all.data(), images.rows},
                         {scores.view().data, images.rows, model.output_width()});
  } catch (const moxie::config_error& e) {
    return e.what();  // what it says of routes that cannot be replayed
  }
  return {};
}

}  // namespace vmoe
