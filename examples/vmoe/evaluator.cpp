#include "evaluator.hpp"

#include <algorithm>
#include <cmath>

#include "moxie/layer/tape.hpp"
#include "moxie/ops/cross_entropy.hpp"

namespace vmoe {

Evaluator::Evaluator(const Model& model, const ModelPlan& plan, bool sigmoid, Index group_images,
                     Index batch)
    : model_(model),
      tokens_(plan.vit.tokens()),
      channels_(plan.vit.channels),
      group_(group_images),
      batch_((batch + group_images - 1) / group_images * group_images),
      classes_(plan.vit.classes),
      sigmoid_(sigmoid),
      memory_(model.parameters().backend(),
              moxie::tape_bytes(model, batch_, moxie::Gradients::none)),
      telemetry_(model.parameters().backend()),
      scores_(to_size(batch_ * classes_)),
      targets_(scores_.size()),
      losses_(to_size(batch_)),
      mask_(to_size(batch_ * tokens_)) {
  moxie::Arena<Backend> arena(moxie::Gradients::none, memory_.data(), memory_.bytes());
  model_.bind(arena, batch_, tape_);
}

const std::vector<float>& Evaluator::scores(const std::vector<float>& inputs, Index images) {
  const Index whole = (images + group_ - 1) / group_ * group_;
  moxie::Pass<Backend> pass{.mode = moxie::Mode::eval, .gradients = moxie::Gradients::none};
  if (whole != images) {
    std::fill(mask_.begin(), mask_.end(), 0);
    std::fill(mask_.begin(), mask_.begin() + images * tokens_, 1);
    pass.mask = {mask_.data(), whole * tokens_};
  }
  model_.forward({inputs.data(), whole, model_.input_width()}, {scores_.data(), whole, classes_},
                 tape_, pass);
  return scores_;
}

/// Those of the last batch, without the images that fill its last group.
void Evaluator::append_routes(Index images, std::vector<moxie::HostRoutes<float>>& all) {
  moxie::RouteRecorder<Backend> recorder(model_.parameters().backend());
  visit(recorder);
  all.resize(recorder.routes.size());
  for (std::size_t layer = 0; layer < all.size(); ++layer) {
    const moxie::HostRoutes<float>& own = recorder.routes[layer];
    moxie::HostRoutes<float>& to = all[layer];
    const Index tokens = images * tokens_;
    const Index size = tokens * own.choices;
    to.tokens += tokens;
    to.choices = own.choices;
    to.choice.insert(to.choice.end(), own.choice.begin(), own.choice.begin() + size);
    to.weight.insert(to.weight.end(), own.weight.begin(), own.weight.begin() + size);
  }
}

void Evaluator::run(const ImageSet& set, const Normalization& normalization, Evaluation& result,
                    std::vector<moxie::HostRoutes<float>>* routes) {
  result = {};
  if (routes != nullptr) routes->clear();
  telemetry_.reset();
  Backend& backend = model_.parameters().backend();
  const Batches batches(set, classes_, normalization,
                        {.batch_size = batch_, .model_channels = channels_},
                        Batches::Use::evaluate);
  const Batches::Epoch epoch = batches.epoch(0);
  std::vector<float> inputs(to_size(batch_ * model_.input_width()));
  std::vector<std::int32_t> labels(to_size(batch_));
  double loss = 0;
  double correct = 0;
  Index seen = 0;
  for (Index b = 0; b < batches.per_epoch(); ++b) {
    const Index images = batches.rows(b);
    const BatchBuffers buffers{.images = inputs, .targets = targets_, .labels = labels};
    const Index parts = std::min<Index>(backend.workers(), images);
    backend.parallel(parts, [&](Index part, int) {
      batches.fill(epoch, b, images * part / parts, images * (part + 1) / parts, buffers);
    });
    scores(inputs, images);
    telemetry_.begin_pass();
    visit(telemetry_);
    if (routes != nullptr) append_routes(images, *routes);
    const moxie::ConstMatrix<Backend> own{scores_.data(), images, classes_};
    const moxie::ConstMatrix<Backend> targets{targets_.data(), images, classes_};
    const moxie::Vector<Backend> losses{losses_.data(), images};
    if (sigmoid_) {
      moxie::sigmoid_cross_entropy(backend, own, targets, losses, {});
    } else {
      moxie::softmax_cross_entropy(backend, own, targets, losses, {});
    }
    for (Index i = 0; i < images; ++i) {
      loss += static_cast<double>(losses_[to_size(i)]);
      const float* row = scores_.data() + i * classes_;
      if (std::max_element(row, row + classes_) - row == labels[to_size(i)]) correct += 1;
    }
    seen += images;
  }
  result.layers = telemetry_.read();
  if (seen == 0) return;
  result.loss = loss / static_cast<double>(seen);
  result.accuracy = correct / static_cast<double>(seen);
  if (!std::isfinite(result.loss))
    moxie::throw_numeric("vmoe: the loss of the test images is ", std::fabs(result.loss),
                         ": the model's scores are NaN or infinite");
}

}  // namespace vmoe
