#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "loss_reader.hpp"
#include "moxie/io/checkpoint.hpp"
#include "moxie/train/batch.hpp"
#include "session.hpp"

namespace vmoe {

/// One training step of a session's model, whatever its objective and optimizer are.
class TrainStep {
 public:
  virtual ~TrainStep() = default;

  /// Whether images come as pixels in [0, 1] instead of normalised.
  virtual bool takes_pixels() const = 0;
  virtual void run(const moxie::Batch<Backend>& batch, double learning_rate,
                   const moxie::Pass<Backend>& pass) = 0;

  // Of the last step.
  /// [images, classes], of the pass that the cross-entropy is of.
  virtual moxie::ConstMatrix<Backend> scores() const = 0;
  /// Of each image, without regularizers.
  virtual std::vector<float> losses() = 0;
  /// Weighted means of what else the objective adds up, by name; they are among `losses`.
  virtual LossSums parts() = 0;
  virtual void visit(moxie::RoutingVisitor<Backend>& visitor) = 0;
  /// The lower level of joint training, which has regularizers of its own.
  virtual void visit_lower(moxie::RoutingVisitor<Backend>& /*visitor*/) {}
  virtual double gradient_norm() const = 0;

  /// @throws moxie::numeric_error for a value or moment that is not finite; moxie::io_error
  virtual void save(const std::filesystem::path& file, const moxie::Metadata& metadata) = 0;
  virtual moxie::Metadata load(const std::filesystem::path& file) = 0;
  /// Takes the start of the options' other models, in a run that begins.
  virtual void warm_start() {}
};

/// Room for batches of `rows` inputs. The session must outlive it.
/// @throws moxie::config_error
std::unique_ptr<TrainStep> make_train_step(Session& session, Index rows);

}  // namespace vmoe
