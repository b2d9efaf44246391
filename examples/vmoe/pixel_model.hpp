#pragma once

#include <functional>

#include "data/normalization.hpp"
#include "model.hpp"
#include "moxie/layer/pass_state.hpp"

namespace vmoe {

/// A trained model as a map of pixels, for attacks: x [images, height * width * channels] in [0, 1]
/// as the data has them, normalised as in training inside. Grey images may become 3 equal channels.
/// A Layer; the model must outlive it.
class PixelModel {
 public:
  using BackendType = Backend;
  struct Tape {
    moxie::detail::PassState<Backend> state;
    moxie::Matrix<Backend> inputs, d_inputs;  // [images, model's input width]
    Model::Tape model;
  };
  /// Called before each forward, with its number of images: what it throws ends the pass.
  using Watch = std::function<void(Index images)>;

  /// @throws moxie::config_error unless the normalization has one mean and one deviation for each
  /// channel of the images, and the model takes as many channels, or 3 for 1
  PixelModel(const Model& model, const Normalization& normalization, ImageShape image,
             Watch watch = {});

  const ImageShape& image() const { return image_; }
  Index input_width() const { return image_.values(); }
  Index output_width() const { return model_->output_width(); }
  moxie::Parameters<Backend>& parameters() const { return model_->parameters(); }
  Index moe_layers() const { return model_->moe_layers(); }
  void visit_routing(Tape& t, moxie::RoutingVisitor<Backend>& visitor) const {
    model_->visit_routing(t.model, visitor);
  }

  void bind(moxie::Arena<Backend>& arena, Index rows, Tape& t) const;
  void forward(moxie::ConstMatrix<Backend> x, moxie::Matrix<Backend> y, Tape& t,
               const moxie::Pass<Backend>& pass) const;
  void backward(moxie::ConstMatrix<Backend> dy, moxie::Matrix<Backend> dx, Tape& t) const;

  /// Of a channel.
  struct Scaling {
    double mean[3] = {}, std_dev[3] = {};
  };

 private:
  const Model* model_;
  ImageShape image_;
  Index copies_ = 1;  // channels of the model for one of the image
  Scaling scaling_;
  Watch watch_;
};

}  // namespace vmoe
