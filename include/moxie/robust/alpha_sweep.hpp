#pragma once

#include <charconv>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "moxie/robust/dual_model.hpp"
#include "moxie/robust/metrics.hpp"

namespace moxie {

/// SA and RA of a dual model at one mixing weight.
struct AlphaPoint {
  double alpha = 0;
  RobustCount count{};

  friend constexpr bool operator==(const AlphaPoint&, const AlphaPoint&) = default;
};

/// The trade-off curve of a dual model: the same batches evaluated and attacked at several mixing
/// weights, each attack made against the mixture at hand. Add batches, then read. The model is left
/// with the options it had.
///
/// Probabilities are attacked through their logarithm, which has the same classes: an attack's loss
/// takes scores.
template <class D, Attack<LayerTarget<D>> A>
class AlphaSweep {
  using B = typename D::BackendType;

 public:
  /// Room for batches of up to `images`. The model must outlive it.
  /// @throws config_error for an alpha outside [0, 1]
  AlphaSweep(D& model, const A& attack, std::vector<double> alphas, Index images)
      : model_(&model),
        run_(LayerTarget<D>(model), attack, images),
        x_adv_(model.parameters().backend(), images * model.input_width()),
        standing_(model.parameters().backend(), images) {
    for (const double alpha : alphas) {
      detail::check_alpha("moxie::AlphaSweep", alpha);
      points_.push_back({.alpha = alpha});
    }
  }

  /// Errors: as those of the attack; the model and all points are then as they were. Blocks.
  void add(const AttackBatch<B>& batch) {
    const Restore restore(*model_);
    DualOptions options = model_->options();
    if (options.space == DualSpace::probability) options.space = DualSpace::log_probability;
    const Matrix<B> x_adv(x_adv_.view().data, batch.x.rows, batch.x.cols);
    std::vector<AlphaPoint> points = points_;
    for (AlphaPoint& point : points) {
      options.alpha = point.alpha;
      model_->set_options(options);
      point.count += evaluate_attack(run_, batch, x_adv, standing_.view().middle(0, batch.x.rows));
    }
    points_ = std::move(points);
  }
  const std::vector<AlphaPoint>& points() const { return points_; }

 private:
  struct Restore {
    explicit Restore(D& m) : model(m), options(m.options()) {}
    ~Restore() { model.set_options(options); }
    Restore(const Restore&) = delete;
    Restore& operator=(const Restore&) = delete;
    D& model;
    DualOptions options;
  };
  D* model_;
  RunAttack<LayerTarget<D>, A> run_;
  Buffer<B, typename B::Scalar> x_adv_;
  Buffer<B, std::int32_t> standing_;
  std::vector<AlphaPoint> points_;
};

namespace detail {
/// The shortest text that reads back as the same number, in any locale.
inline std::string number_text(double v) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, v).ptr};
}
}  // namespace detail

/// "alpha,images,sa,ra", a line a point, percent of all images.
inline std::string to_csv(std::span<const AlphaPoint> points) {
  std::string out = "alpha,images,sa,ra\n";
  for (const AlphaPoint& p : points) {
    for (const double v : {p.alpha, static_cast<double>(p.count.images), p.count.sa()})
      out.append(detail::number_text(v)).append(",");
    out.append(detail::number_text(p.count.ra())).append("\n");
  }
  return out;
}
/// The same as a JSON array of objects.
inline std::string to_json(std::span<const AlphaPoint> points) {
  std::string out = "[";
  for (const AlphaPoint& p : points) {
    if (out.size() > 1) out.append(", ");
    out.append("{\"alpha\": ").append(detail::number_text(p.alpha));
    out.append(", \"images\": ").append(std::to_string(p.count.images));
    out.append(", \"sa\": ").append(detail::number_text(p.count.sa()));
    out.append(", \"ra\": ").append(detail::number_text(p.count.ra())).append("}");
  }
  return out.append("]");
}

}  // namespace moxie
