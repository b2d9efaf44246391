#include "evaluator.hpp"

#include <algorithm>
#include <cmath>

#include "batch_feed.hpp"
#include "moxie/layer/tape.hpp"
#include "moxie/ops/cross_entropy.hpp"

namespace vmoe {

Evaluator::Evaluator(const Model& model, moxie::Executor& threads, const ModelPlan& plan,
                     bool sigmoid, Index group_images, Index batch)
    : model_(model),
      threads_(threads),
      tokens_(plan.vit.tokens()),
      channels_(plan.vit.channels),
      group_(group_images),
      batch_((batch + group_images - 1) / group_images * group_images),
      classes_(plan.vit.classes),
      sigmoid_(sigmoid),
      memory_(backend(), moxie::tape_bytes(model, batch_, moxie::Gradients::none)),
      telemetry_(backend()),
      scores_(backend(), batch_ * classes_),
      losses_(backend(), batch_),
      mask_(backend(), batch_ * tokens_) {
  moxie::Arena<Backend> arena(moxie::Gradients::none, memory_.data(), memory_.bytes());
  model_.bind(arena, batch_, tape_);
}

moxie::Matrix<Backend> Evaluator::forward(moxie::ConstMatrix<Backend> inputs, Index images) {
  const Index whole = (images + group_ - 1) / group_ * group_;
  moxie::Pass<Backend> pass{.mode = moxie::Mode::eval, .gradients = moxie::Gradients::none};
  if (whole != images) {
    if (masked_ != images) {
      std::fill(mask_.host.begin(), mask_.host.end(), 0);
      std::fill(mask_.host.begin(), mask_.host.begin() + images * tokens_, 1);
      mask_.send(batch_ * tokens_);
      masked_ = images;
    }
    pass.mask = {mask_.data(), whole * tokens_};
  }
  const moxie::Matrix<Backend> scores(scores_.data(), whole, classes_);
  model_.forward(inputs.top(whole), scores, tape_, pass);
  return scores.top(images);
}

const std::vector<float>& Evaluator::scores(const std::vector<float>& inputs, Index images) {
  const Index width = model_.input_width();
  if (!inputs_) inputs_.emplace(backend(), batch_ * width);
  const Index count = std::min(static_cast<Index>(inputs.size()), batch_ * width);
  backend().copy_from_host(inputs_->data(), inputs.data(), to_size(count) * sizeof(float));
  forward({inputs_->data(), batch_, width}, images);
  scores_.receive(images * classes_);
  return scores_.host;
}

/// Those of the last batch, without the images that fill its last group.
void Evaluator::append_routes(Index images, std::vector<moxie::HostRoutes<float>>& all) {
  moxie::RouteRecorder<Backend> recorder(backend());
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
  const Batches batches(set, classes_, normalization,
                        {.batch_size = batch_, .model_channels = channels_},
                        Batches::Use::evaluate);
  BatchFeed feed(backend(), threads_, batches, batch_, classes_);
  double loss = 0;
  double correct = 0;
  Index seen = 0;
  for (Index b = 0; b < batches.per_epoch(); ++b) {
    const Index images = batches.rows(b);
    const BatchFeed::Batch batch = feed.take(static_cast<std::uint64_t>(b));
    if (b + 1 < batches.per_epoch()) feed.start(static_cast<std::uint64_t>(b + 1));
    const moxie::ConstMatrix<Backend> scores = forward(batch.inputs, images);
    telemetry_.begin_pass();
    visit(telemetry_);
    if (routes != nullptr) append_routes(images, *routes);
    const moxie::ConstMatrix<Backend> targets = batch.targets.top(images);
    const moxie::Vector<Backend> losses{losses_.data(), images};
    if (sigmoid_) {
      moxie::sigmoid_cross_entropy(backend(), scores, targets, losses, {});
    } else {
      moxie::softmax_cross_entropy(backend(), scores, targets, losses, {});
    }
    losses_.receive(images);
    scores_.receive(images * classes_);
    for (Index i = 0; i < images; ++i) {
      loss += static_cast<double>(losses_.host[to_size(i)]);
      const float* row = scores_.host.data() + i * classes_;
      if (std::max_element(row, row + classes_) - row == batch.labels[to_size(i)]) correct += 1;
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
