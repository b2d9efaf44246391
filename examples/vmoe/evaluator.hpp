#pragma once

#include <optional>
#include <vector>

#include "data/batch.hpp"
#include "mirror.hpp"
#include "model.hpp"
#include "moxie/core/executor.hpp"
#include "moxie/core/memory.hpp"
#include "moxie/io/routes.hpp"
#include "moxie/routing/statistics.hpp"

namespace vmoe {

struct Evaluation {
  double loss = 0;      ///< softmax or sigmoid cross-entropy, mean over images
  double accuracy = 0;  ///< in [0, 1]
  std::vector<moxie::RoutingStatistics> layers;  ///< of the MoE layers, in order
};

/// Runs a model over a set of images without changing it. Routing of an image does not depend on
/// the others unless the evaluation capacity drops tokens.
class Evaluator {
 public:
  /// `group_images` as in the options: the last batch is filled up to whole groups with masked
  /// images. `threads` make the batches; both references must outlive the object.
  Evaluator(const Model& model, moxie::Executor& threads, const ModelPlan& plan, bool sigmoid,
            Index group_images, Index batch);

  /// `routes`, if given, becomes the routes of all tokens of the images, in order, layer by layer.
  /// @throws moxie::config_error for routes of a router that has no list of choices for each token
  void run(const ImageSet& set, const Normalization& normalization, Evaluation& result,
           std::vector<moxie::HostRoutes<float>>* routes = nullptr);

  /// Scores [images, classes] of one batch given as inputs, with room for whole groups; leaves its
  /// routes in the tape for `visit`.
  const std::vector<float>& scores(const std::vector<float>& inputs, Index images);
  Backend& backend() const { return model_.parameters().backend(); }
  void visit(moxie::RoutingVisitor<Backend>& visitor) { model_.visit_routing(tape_, visitor); }

 private:
  /// The scores of inputs with room for whole groups, in the backend's memory.
  moxie::Matrix<Backend> forward(moxie::ConstMatrix<Backend> inputs, Index images);
  void append_routes(Index images, std::vector<moxie::HostRoutes<float>>& all);

  const Model& model_;
  moxie::Executor& threads_;
  Index tokens_, channels_, group_, batch_, classes_;
  bool sigmoid_;
  moxie::Memory<Backend> memory_;
  Model::Tape tape_;
  moxie::RoutingTelemetry<Backend> telemetry_;
  Mirror<float> scores_, losses_;
  std::optional<Mirror<float>> inputs_;  // of the host's, once it gave some
  Mirror<std::int32_t> mask_;
  Index masked_ = 0;  // the first images that the mask lets through; 0: it was not written
};

}  // namespace vmoe
