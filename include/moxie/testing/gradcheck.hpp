#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moxie/layer/any_layer.hpp"
#include "moxie/layer/tape.hpp"
#include "moxie/routing/record.hpp"
#include "moxie/testing/gapped_rows.hpp"

/// Proves the gradients of a layer, and the laws of layer/concept.hpp, in double precision. For
/// your own layers too.
namespace moxie::testing {

template <Backend B>
struct GradientOptions {
  Pass<B> pass{};           ///< what every pass is told; its `gradients` are set here
  double step = 1e-5;       ///< of the central differences
  double tolerance = 1e-6;  ///< of |analytic - numeric| / max(1, |analytic|, |numeric|)
  std::uint64_t seed = 1;  ///< of inputs, weights of the loss, shifts of the parameters and samples
  /// Standard deviation of a shift of every parameter while the check runs: a kernel that starts at
  /// 0 would hide what lies behind it.
  double shift = 0.3;
  Index most_inputs = 4096;    ///< above, a sample of so many input elements is checked
  Index most_per_entry = 256;  ///< above, a sample of so many elements of a parameter
  /// rows must be a multiple of it (tokens of an image, tokens of a group)
  Index row_multiple = 1;
  bool strided = true;  ///< false for a layer that refuses rows with gaps between them
  /// Allocations of the program so far, if it counts them: forward and backward must make none.
  std::size_t (*allocations)() = nullptr;
};

/// What check_gradients found.
struct GradientReport {
  bool passed = true;
  double worst = 0;     ///< largest relative error of a gradient
  std::string where;    ///< of it: "x[3, 1]" or "Dense_0/kernel[17]"
  std::string message;  ///< every broken law and the worst gradient, one a line

  explicit operator bool() const { return passed; }
};

namespace detail {

/// All that a visitor is shown, to be compared.
template <Backend B>
class RoutingSnapshot final : public RoutingVisitor<B> {
 public:
  explicit RoutingSnapshot(B& backend) : backend_(backend) {}
  void sparse(const SparseRouting<B>& r) override {
    for (const Matrix<B>* m : {&r.logits, &r.noisy_logits, &r.probs, &r.noisy_probs, &r.plan})
      add(*m);
    if (r.first) return;  // ragged lists have room that is not filled
    add(r.weight);
    for (const IntMatrix<B>* m : {&r.choice, &r.slot, &r.row}) add(*m);
  }
  void soft(const SoftRouting<B>& r) override { add(r.probs); }
  void losses(std::span<const std::string_view>, ConstVector<B> values) override {
    add(ConstMatrix<B>(values.data, 1, values.size));
  }
  std::vector<double> seen;

 private:
  template <class M>
  void add(const M& m) {
    std::vector<std::remove_const_t<std::remove_pointer_t<decltype(m.data)>>> host(
        static_cast<std::size_t>(m.size()));
    if (!host.empty()) backend_.copy_to_host(host.data(), m.data, host.size() * sizeof(host[0]));
    seen.insert(seen.end(), host.begin(), host.end());
  }
  B& backend_;
};

template <Backend B>
class LossSum final : public RoutingVisitor<B> {
 public:
  explicit LossSum(B& backend) : backend_(backend) {}
  void losses(std::span<const std::string_view>, ConstVector<B> values) override {
    std::vector<double> host(static_cast<std::size_t>(values.size));
    backend_.copy_to_host(host.data(), values.data, host.size() * sizeof(double));
    for (const double v : host) sum += v;
  }
  double sum = 0;

 private:
  B& backend_;
};

/// A layer that is somebody else's.
template <Layer L>
class LayerReference {
 public:
  using BackendType = typename L::BackendType;
  using Tape = typename L::Tape;

  explicit LayerReference(const L& layer) : layer_(&layer) {}
  Index input_width() const { return layer_->input_width(); }
  Index output_width() const { return layer_->output_width(); }
  void bind(Arena<BackendType>& arena, Index rows, Tape& tape) const {
    layer_->bind(arena, rows, tape);
  }
  void forward(ConstMatrix<BackendType> x, Matrix<BackendType> y, Tape& tape,
               const Pass<BackendType>& pass) const {
    layer_->forward(x, y, tape, pass);
  }
  void backward(ConstMatrix<BackendType> dy, Matrix<BackendType> dx, Tape& tape) const {
    layer_->backward(dy, dx, tape);
  }
  Parameters<BackendType>& parameters() const { return layer_->parameters(); }
  void visit_routing(Tape& tape, RoutingVisitor<BackendType>& visitor) const {
    if constexpr (requires { layer_->visit_routing(tape, visitor); })
      layer_->visit_routing(tape, visitor);
  }

 private:
  const L* layer_;
};

/// The layer's type is forgotten: the check is compiled once for all layers of a backend.
template <Backend B>
class GradientChecker {
  using L = AnyLayer<B>;

 public:
  struct Outcome {
    std::vector<double> y, dx, gradients;
  };

  GradientChecker(const L& layer, Index rows, const GradientOptions<B>& options)
      : layer_(layer),
        parameters_(layer.parameters()),
        backend_(parameters_.backend()),
        rows_(rows),
        options_(options),
        x_(normals("x", rows * layer.input_width())),
        w_(normals("w", rows * layer.output_width())),
        values_(host(parameters_.values())) {}

  GradientReport run() {
    const std::vector<double> original = values_;
    if (options_.shift > 0) {
      const std::vector<double> by = normals("shift", parameters_.size());
      for (std::size_t i = 0; i < by.size(); ++i) values_[i] += options_.shift * by[i];
      set_values(values_);
    }
    {
      OwnedTape<L> tape = make_tape(layer_, rows_);
      const Outcome full = pass(tape, rows_, Gradients::all, true);
      laws(tape, full);
      gradients(tape, full);
    }
    set_values(original);
    parameters_.zero_gradients();
    backend_.synchronize();
    if (report_.worst > options_.tolerance)
      fail(moxie::detail::message("the gradient of ", report_.where, " is off by ", report_.worst,
                                  " (analytic ", analytic_, ", numeric ", numeric_, ")"));
    return report_;
  }

 private:
  // --- central differences

  void gradients(typename L::Tape& tape, const Outcome& full) {
    GappedRows<B> x(backend_, rows_, layer_.input_width(), 0);
    GappedRows<B> y(backend_, rows_, layer_.output_width(), 0);
    x.set(x_);
    const auto loss = [&] { return value(x, y, tape); };
    const Index cols = layer_.input_width();
    for (const Index i : sample("inputs", rows_ * cols, options_.most_inputs)) {
      const double old = x_[static_cast<std::size_t>(i)];
      compare(
          full.dx[static_cast<std::size_t>(i)], [&](double by) { x.put(i, old + by); }, loss,
          [&] { return moxie::detail::message("x[", i / cols, ", ", i % cols, "]"); });
    }
    for (const ParameterEntry& e : parameters_.entries()) {
      if (!e.trained) continue;
      for (const Index i : sample(e.name.c_str(), e.size(), options_.most_per_entry)) {
        const Index at = e.offset + i;
        const double old = values_[static_cast<std::size_t>(at)];
        const auto put = [&](double by) {
          const double v = old + by;
          backend_.copy_from_host(parameters_.edit().data + at, &v, sizeof(double));
        };
        compare(full.gradients[static_cast<std::size_t>(at)], put, loss,
                [&] { return moxie::detail::message(e.name, "[", i, "]"); });
      }
    }
  }
  template <class Put, class Loss, class Name>
  void compare(double analytic, const Put& put, const Loss& loss, const Name& name) {
    put(options_.step);
    const double up = loss();
    put(-options_.step);
    const double down = loss();
    put(0);
    const double numeric = (up - down) / (2 * options_.step);
    const double size = (std::fmax)(1.0, (std::fmax)(std::fabs(analytic), std::fabs(numeric)));
    double error = std::fabs(analytic - numeric) / size;
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    if (error <= report_.worst) return;
    report_.worst = error;
    report_.where = name();
    analytic_ = analytic;
    numeric_ = numeric;
  }
  double value(const GappedRows<B>& x, const GappedRows<B>& y, typename L::Tape& tape) const {
    layer_.forward(x.view(), y.view(), tape, told(Gradients::none));
    const std::vector<double> out = y.get();
    double sum = 0;
    for (std::size_t i = 0; i < out.size(); ++i) sum += w_[i] * out[i];
    LossSum<B> losses(backend_);
    layer_.visit_routing(tape, losses);
    return sum + losses.sum;
  }

  // --- laws

  void laws(typename L::Tape& tape, const Outcome& full) {
    {
      const Outcome again = pass(tape, rows_, Gradients::all, true);
      expect(again.y == full.y && again.dx == full.dx && again.gradients == full.gradients,
             "a second pass on the same tape gives other bits");
    }
    {
      const Outcome more = pass(tape, rows_, Gradients::all, true, 0, Start::kept);
      bool twice = true;
      for (std::size_t i = 0; i < more.gradients.size(); ++i)
        twice = twice && near(more.gradients[i], 2 * full.gradients[i]);
      expect(twice, "gradients of parameters do not accumulate");
    }
    {
      const Outcome blind = pass(tape, rows_, Gradients::all, false);
      expect(blind.gradients == full.gradients,
             "with an empty dx, the gradients of the parameters differ");
    }
    {
      const Outcome inputs = pass(tape, rows_, Gradients::input, true, 0, Start::marked);
      expect(inputs.dx == full.dx, "a pass with Gradients::input gives another dx");
      expect(untouched(inputs), "a pass with Gradients::input changes gradients of parameters");
    }
    {
      OwnedTape<L> small = make_tape(layer_, rows_, Gradients::input);
      const Outcome inputs = pass(small, rows_, Gradients::all, true, 0, Start::marked);
      expect(inputs.y == full.y && inputs.dx == full.dx,
             "a tape for Gradients::input gives another y or dx");
      expect(untouched(inputs), "a tape for Gradients::input changes gradients of parameters");
    }
    {
      OwnedTape<L> small = make_tape(layer_, rows_, Gradients::none);
      GappedRows<B> x(backend_, rows_, layer_.input_width(), 0);
      GappedRows<B> y(backend_, rows_, layer_.output_width(), 0);
      x.set(x_);
      layer_.forward(x.view(), y.view(), small, told(Gradients::all));
      expect(y.get() == full.y, "a tape for Gradients::none gives another y");
    }
    const Index fewer = rows_ / 2 / options_.row_multiple * options_.row_multiple;
    if (fewer > 0) {
      const Outcome in_large = pass(tape, fewer, Gradients::all, true);
      OwnedTape<L> exact = make_tape(layer_, fewer);
      const Outcome in_exact = pass(exact, fewer, Gradients::all, true);
      expect(in_large.y == in_exact.y && in_large.dx == in_exact.dx &&
                 in_large.gradients == in_exact.gradients,
             "fewer rows than the tape was made for give other bits than on a tape made for them");
    }
    if (options_.strided) {
      const Outcome apart = pass(tape, rows_, Gradients::all, true, 3);
      expect(
          near(apart.y, full.y) && near(apart.dx, full.dx) && near(apart.gradients, full.gradients),
          "rows with gaps between them give other results");
    }
    {
      GappedRows<B> x(backend_, rows_, layer_.input_width(), 0);
      GappedRows<B> dy(backend_, rows_, layer_.output_width(), 0);
      const GappedRows<B> y(backend_, rows_, layer_.output_width(), 0);
      const GappedRows<B> dx(backend_, rows_, layer_.input_width(), 0);
      x.set(x_);
      dy.set(w_);
      RoutingSnapshot<B> before(backend_);
      RoutingSnapshot<B> after(backend_);
      layer_.forward(x.view(), y.view(), tape, told(Gradients::all));
      layer_.visit_routing(tape, before);
      layer_.backward(dy.view(), dx.view(), tape);
      layer_.visit_routing(tape, after);
      expect(before.seen == after.seen, "a backward changes the routing that the tape shows");
    }
#if defined(__cpp_exceptions)
    refuses(tape);
#endif
    if (options_.allocations != nullptr) allocates_nothing(tape);
  }
  void refuses(typename L::Tape& tape) {
    const Index in = layer_.input_width();
    const Index out = layer_.output_width();
    const auto throws = [&](Index x_rows, Index x_cols, Index y_rows, Index y_cols) {
      const GappedRows<B> x(backend_, x_rows, x_cols, 0);
      const GappedRows<B> y(backend_, y_rows, y_cols, 0);
      MOXIE_TRY { layer_.forward(x.view(), y.view(), tape, told(Gradients::all)); }
      MOXIE_CATCH(const shape_error&) {
        for (const double v : y.get())
          if (v != GappedRows<B>::untouched) return false;
        return true;
      }
      return false;
    };
    const Index more = rows_ + options_.row_multiple;
    expect(throws(rows_, in + 1, rows_, out), "no shape_error for an x too wide");
    expect(throws(rows_, in, rows_, out + 1), "no shape_error for a y too wide");
    expect(throws(rows_, in, more, out), "no shape_error for a y with more rows than x");
    expect(throws(more, in, more, out), "no shape_error for more rows than the tape was made for");
  }
  void allocates_nothing(typename L::Tape& tape) {
    GappedRows<B> x(backend_, rows_, layer_.input_width(), 0);
    GappedRows<B> dy(backend_, rows_, layer_.output_width(), 0);
    const GappedRows<B> y(backend_, rows_, layer_.output_width(), 0);
    const GappedRows<B> dx(backend_, rows_, layer_.input_width(), 0);
    x.set(x_);
    dy.set(w_);
    const Pass<B> all = told(Gradients::all);
    const std::size_t before = options_.allocations();
    layer_.forward(x.view(), y.view(), tape, all);
    layer_.backward(dy.view(), dx.view(), tape);
    const std::size_t made = options_.allocations() - before;
    expect(made == 0, moxie::detail::message("forward and backward make ", made, " allocations"));
  }

  // --- parts

  /// Of the gradients of the parameters before a pass: marked, to see whether they are written.
  enum class Start { zero, kept, marked };

  /// One forward and backward of the first `rows` rows, `gap` elements between two rows.
  Outcome pass(typename L::Tape& tape, Index rows, Gradients gradients, bool with_dx, Index gap = 0,
               Start start = Start::zero) {
    const Index in = layer_.input_width();
    const Index out = layer_.output_width();
    GappedRows<B> x(backend_, rows, in, gap);
    GappedRows<B> dy(backend_, rows, out, gap);
    const GappedRows<B> y(backend_, rows, out, gap);
    const GappedRows<B> dx(backend_, rows, in, gap);
    x.set(x_);
    dy.set(w_);
    if (start == Start::zero) parameters_.zero_gradients();
    if (start == Start::marked) backend_.fill(parameters_.gradients(), mark);
    layer_.forward(x.view(), y.view(), tape, told(gradients));
    layer_.backward(dy.view(), with_dx ? dx.view() : Matrix<B>(), tape);
    expect(x.gaps_untouched() && y.gaps_untouched() && dx.gaps_untouched(),
           "something was written between the rows");
    const std::vector<double> after = x.get();
    expect(std::equal(after.begin(), after.end(), x_.begin()), "x was written");
    return {y.get(), dx.get(), host(parameters_.gradients())};
  }
  bool untouched(const Outcome& outcome) const {
    for (const double g : outcome.gradients)
      if (g != mark) return false;
    return true;
  }
  Pass<B> told(Gradients gradients) const {
    Pass<B> p = options_.pass;
    p.gradients = gradients;
    return p;
  }
  static bool near(double a, double b) {
    return std::fabs(a - b) <= 1e-9 * (std::fmax)(1.0, std::fabs(b));
  }
  static bool near(const std::vector<double>& a, const std::vector<double>& b) {
    for (std::size_t i = 0; i < a.size(); ++i)
      if (!near(a[i], b[i])) return false;
    return a.size() == b.size();
  }
  std::vector<double> normals(const char* purpose, Index n) const {
    const Random random(options_.seed, 0, stream_id(purpose));
    std::vector<double> out;
    for (Index i = 0; i < n; ++i) out.push_back(random.normal(static_cast<std::uint64_t>(i)));
    return out;
  }
  /// All of [0, n), or `most` of them, one from each of as many equal stretches.
  std::vector<Index> sample(const char* purpose, Index n, Index most) const {
    const Random random(options_.seed, 1, stream_id(purpose));
    const Index count = n < most ? n : most;
    std::vector<Index> out;
    for (Index i = 0; i < count; ++i) {
      const Index first = i * n / count;
      const Index length = (i + 1) * n / count - first;
      out.push_back(first + static_cast<Index>(random.uniform(static_cast<std::uint64_t>(i)) *
                                               static_cast<double>(length)));
    }
    return out;
  }
  std::vector<double> host(ConstVector<B> v) const {
    std::vector<double> out(static_cast<std::size_t>(v.size));
    if (!out.empty()) backend_.copy_to_host(out.data(), v.data, out.size() * sizeof(double));
    return out;
  }
  void set_values(const std::vector<double>& values) {
    if (!values.empty())
      backend_.copy_from_host(parameters_.edit().data, values.data(),
                              values.size() * sizeof(double));
  }
  void expect(bool holds, const std::string& otherwise) {
    if (!holds) fail(otherwise);
  }
  void fail(const std::string& what) {
    report_.passed = false;
    report_.message += what + "\n";
  }

  static constexpr double mark = 5;

  const L& layer_;
  Parameters<B>& parameters_;
  B& backend_;
  Index rows_;
  GradientOptions<B> options_;
  std::vector<double> x_, w_, values_;
  double analytic_ = 0;
  double numeric_ = 0;
  GradientReport report_;
};
}  // namespace detail

/// Checks the gradients of `layer`, for passes of `rows` rows, against central differences of
/// loss = sum(w * y) + losses of its regularizers, w random: with respect to every element of the
/// input and of every trained parameter, or to a sample of them (GradientOptions). Checks the laws
/// of layer/concept.hpp along the way: same bits again, accumulation, input-only passes and tapes,
/// tapes without gradients, smaller passes, strided rows, refused shapes, no allocation.
///
/// The parameters of the model are shifted while it runs and restored at its end, their gradients
/// are zeroed. Cost: two forwards per element checked. Blocks.
template <Layer L>
GradientReport check_gradients(const L& layer, Index rows,
                               const GradientOptions<typename L::BackendType>& options = {}) {
  using B = typename L::BackendType;
  static_assert(std::same_as<typename B::Scalar, double>,
                "moxie::testing::check_gradients: central differences need a backend of double");
  const AnyLayer<B> any = detail::LayerReference<L>(layer);
  return detail::GradientChecker<B>(any, rows, options).run();
}

}  // namespace moxie::testing
