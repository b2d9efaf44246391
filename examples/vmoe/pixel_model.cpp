#include "pixel_model.hpp"

#include <algorithm>

#include "moxie/core/error.hpp"

namespace vmoe {
namespace {

using View = moxie::Matrix<Backend>;
using ConstView = moxie::ConstMatrix<Backend>;

struct NormalizePixels {
  PixelModel::Scaling scaling;
  Index channels, copies;
  ConstView pixels;
  View inputs;

  MOXIE_HD MOXIE_INLINE void operator()(Index r, Index v) const {
    const Index c = v % channels;
    const auto input = static_cast<float>((static_cast<double>(pixels(r, v)) - scaling.mean[c]) /
                                          scaling.std_dev[c]);
    for (Index copy = 0; copy < copies; ++copy) inputs(r, v * copies + copy) = input;
  }
};
struct NormalizePixelsBackward {
  PixelModel::Scaling scaling;
  Index channels, copies;
  ConstView d_inputs;
  View d_pixels;

  MOXIE_HD MOXIE_INLINE void operator()(Index r, Index v) const {
    double sum = 0;
    for (Index copy = 0; copy < copies; ++copy)
      sum += static_cast<double>(d_inputs(r, v * copies + copy));
    d_pixels(r, v) = static_cast<float>(sum / scaling.std_dev[v % channels]);
  }
};

}  // namespace

PixelModel::PixelModel(const Model& model, const Normalization& normalization, ImageShape image,
                       Watch watch)
    : model_(&model), image_(image), watch_(std::move(watch)) {
  (void)normalization_table(normalization, image.channels);  // refuses what makes no sense
  copies_ = model.input_width() / std::max<Index>(image.values(), 1);
  if (image.channels > 3 || copies_ * image.values() != model.input_width() || copies_ < 1 ||
      (copies_ > 1 && image.channels > 1))
    moxie::throw_config("vmoe::PixelModel: images are ", image.height, "x", image.width, "x",
                        image.channels, ", but the model takes ", model.input_width(), " numbers");
  for (std::size_t c = 0; c < to_size(image.channels); ++c) {
    scaling_.mean[c] = normalization.mean[c];
    scaling_.std_dev[c] = normalization.std_dev[c];
  }
}

void PixelModel::bind(moxie::Arena<Backend>& arena, Index rows, Tape& t) const {
  const moxie::Arena<Backend>::Scope scope(arena);
  t.state.bind(arena, rows);
  t.d_inputs = {};
  t.inputs = arena.kept<float>(rows, model_->input_width());
  if (arena.wants_input()) t.d_inputs = arena.scratch<float>(rows, model_->input_width());
  model_->bind(arena, rows, t.model);
}

void PixelModel::forward(ConstView x, View y, Tape& t, const moxie::Pass<Backend>& pass) const {
  if (watch_) watch_(x.rows);
  t.state.begin_forward_of_parts("vmoe::PixelModel", x, y, input_width(), output_width(), pass);
  const View inputs = t.inputs.top(x.rows);
  parameters().backend().for_each(x.rows, input_width(),
                                  NormalizePixels{scaling_, image_.channels, copies_, x, inputs});
  model_->forward(ConstView(inputs), y, t.model, pass);
  t.state.end_forward();
}

void PixelModel::backward(ConstView dy, View dx, Tape& t) const {
  t.state.begin_backward_of_parts("vmoe::PixelModel", dy, dx, input_width(), output_width());
  View d_inputs;
  if (dx) d_inputs = t.d_inputs.top(dy.rows);
  model_->backward(dy, d_inputs, t.model);
  if (dx)
    parameters().backend().for_each(
        dy.rows, input_width(),
        NormalizePixelsBackward{scaling_, image_.channels, copies_, ConstView(d_inputs), dx});
}

}  // namespace vmoe
