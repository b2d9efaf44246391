#pragma once

#include <cmath>
#include <memory>
#include <span>
#include <vector>

#include "moxie/nn/pass_state.hpp"
#include "moxie/ops/add_rows.hpp"
#include "moxie/ops/copy_rows.hpp"
#include "moxie/ops/layer_norm.hpp"

namespace moxie {

/// What tells a transformer where a patch lies.
enum class Positions {
  learned,   ///< one trained row per token
  sincos2d,  ///< fixed waves of the patch's column and line; the class token gets none
  none
};

/// A grid of patches, lines by columns.
struct Grid {
  Index down = 0;
  Index across = 0;

  constexpr Index cells() const { return down * across; }
  friend constexpr bool operator==(const Grid&, const Grid&) = default;
};

/// The fixed embedding of a grid, [down * across, width], row by row: sin(x w), cos(x w), sin(y w),
/// cos(y w), x the column, y the line, w_k = 10000^(-k / (width / 4 - 1)).
/// @throws config_error unless width is a multiple of 4 and at least 8   Source: V-MoE, "sincos2d".
inline std::vector<double> sincos2d(Grid grid, Index width) {
  if (width < 8 || width % 4 != 0)
    throw_config("moxie::sincos2d: width is ", width, ", expected a multiple of 4, at least 8");
  const Index waves = width / 4;
  std::vector<double> out;
  out.reserve(static_cast<std::size_t>(grid.cells() * width));
  for (Index y = 0; y < grid.down; ++y)
    for (Index x = 0; x < grid.across; ++x)
      for (const Index at : {x, y})
        for (const bool sine : {true, false})
          for (Index k = 0; k < waves; ++k) {
            const double w =
                std::pow(10000.0, -static_cast<double>(k) / static_cast<double>(waves - 1));
            const double phase = static_cast<double>(at) * w;
            out.push_back(sine ? std::sin(phase) : std::cos(phase));
          }
  return out;
}

/// Learned positions of one grid for another one, for fine-tuning at another resolution: the
/// bilinear zoom that maps corners to corners. values: [from.cells(), width], or one row more, the
/// class token's, which comes first and stays. On the host.   @throws shape_error if the sizes do
/// not agree Source: V-MoE and ViT, whose loaders call scipy.ndimage.zoom with order 1.
template <class T>
std::vector<T> zoom_positions(std::span<const T> values, Grid from, Grid to, Index width) {
  const auto size = static_cast<Index>(values.size());
  const Index extra = size - from.cells() * width;  // of a class token
  if (from.cells() < 1 || to.cells() < 1 || width < 1 || (extra != 0 && extra != width))
    throw_shape("moxie::zoom_positions: ", size, " values and a new grid of [", to.down, " x ",
                to.across, "], expected [", from.down, " x ", from.across, "] rows of ", width,
                ", or one row more, and a grid that is not empty");
  std::vector<T> out(values.begin(), values.begin() + extra);
  out.reserve(static_cast<std::size_t>(to.cells() * width + extra));
  const std::span<const T> cells = values.subspan(static_cast<std::size_t>(extra));

  struct Between {  // two neighbours and the share of the second
    Index first, second;
    double share;
  };
  const auto between = [](Index i, Index old_size, Index new_size) -> Between {
    const double at = new_size > 1 ? static_cast<double>(i) * static_cast<double>(old_size - 1) /
                                         static_cast<double>(new_size - 1)
                                   : 0.0;
    const auto first = static_cast<Index>(at);
    return {first, first + 1 < old_size ? first + 1 : first, at - static_cast<double>(first)};
  };
  for (Index y = 0; y < to.down; ++y)
    for (Index x = 0; x < to.across; ++x) {
      const Between v = between(y, from.down, to.down);
      const Between h = between(x, from.across, to.across);
      for (Index c = 0; c < width; ++c) {
        const auto old = [&](Index line, Index column) {
          return static_cast<double>(
              cells[static_cast<std::size_t>((line * from.across + column) * width + c)]);
        };
        const double above =
            (1 - h.share) * old(v.first, h.first) + h.share * old(v.first, h.second);
        const double below =
            (1 - h.share) * old(v.second, h.first) + h.share * old(v.second, h.second);
        out.push_back(static_cast<T>((1 - v.share) * above + v.share * below));
      }
    }
  return out;
}

/// Where a PositionEmbedding works.
struct PositionConfig {
  Grid grid{};
  Index width = 0;           ///< D
  bool class_token = false;  ///< the first token of an image is not a patch
  Positions kind = Positions::learned;
};

/// y = x + positions.   x, y: [images, tokens * D], tokens = cells of the grid, plus one for a
/// class token. Parameter, if learned: pos_embedding [1, tokens, D], which starts N(0, 0.02^2).
template <Backend B>
class PositionEmbedding {
  using T = typename B::Scalar;

 public:
  using BackendType = B;
  struct Tape {
    detail::PassState<B> state;
    Scratch<B> sums;
  };

  /// @throws config_error for an empty grid or width, or a width that sincos2d cannot use
  PositionEmbedding(const Scope<B>& scope, const PositionConfig& config)
      : parameters_(scope.parameters), config_(config) {
    detail::require_positive(who, "grid.down", config.grid.down);
    detail::require_positive(who, "grid.across", config.grid.across);
    detail::require_positive(who, "width", config.width);
    if (config.kind == Positions::learned) {
      table_ = scope.add("pos_embedding", {1, tokens(), config.width}, Initializer::normal(0.02));
    } else if (config.kind == Positions::sincos2d) {
      std::vector<T> table(static_cast<std::size_t>(config.class_token ? config.width : 0), T(0));
      for (const double v : sincos2d(config.grid, config.width)) table.push_back(static_cast<T>(v));
      fixed_ = std::make_shared<Buffer<B, T>>(scope.backend(), output_width());
      scope.backend().copy_from_host(fixed_->view().data, table.data(), table.size() * sizeof(T));
    }
  }

  Index tokens() const { return config_.grid.cells() + (config_.class_token ? 1 : 0); }
  Index input_width() const { return tokens() * config_.width; }
  Index output_width() const { return input_width(); }
  Parameters<B>& parameters() const { return *parameters_; }

  void bind(Arena<B>& arena, Index images, Tape& t) const {
    typename Arena<B>::Scope scope(arena);
    t.state.bind(arena, images);
    t.sums = {};
    if (arena.wants_weights() && config_.kind == Positions::learned)
      t.sums = arena.scratch_bytes(parameters_->backend().column_sums_bytes(images, input_width()));
  }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    t.state.begin_forward(who, x, y, input_width(), output_width(), pass);
    B& b = parameters_->backend();
    switch (config_.kind) {
      case Positions::learned:
        return add_vector(b, x, parameters_->vector(table_), y);
      case Positions::sincos2d:
        return add_vector(b, x, ConstVector<B>(fixed_->view()), y);
      case Positions::none:
        return copy_rows(b, x, y);
    }
  }
  /// dx is a copy of dy: leave it empty where dy itself can be read on.
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    t.state.begin_backward(who, dy, dx, input_width(), output_width());
    B& b = parameters_->backend();
    if (t.state.wants_weights() && config_.kind == Positions::learned)
      b.column_sums(dy.rows, dy.cols, detail::ElementTerm<B>{dy},
                    parameters_->gradient_vector(table_), t.sums);
    if (dx) copy_rows(b, dy, dx);
  }

 private:
  static constexpr const char* who = "moxie::PositionEmbedding";

  std::shared_ptr<Parameters<B>> parameters_;
  PositionConfig config_;
  typename Parameters<B>::Id table_ = 0;
  std::shared_ptr<Buffer<B, T>> fixed_;  // constant, made from the config: no parameter
};

}  // namespace moxie
