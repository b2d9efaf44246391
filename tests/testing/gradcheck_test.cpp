// The gradient check must find what is wrong: layers with one fault each.
#include "moxie/testing/gradcheck.hpp"

#include <doctest/doctest.h>

#include <memory>
#include <string>

#include "support/kernels.hpp"

using namespace moxie;
using B = CpuBackend<double>;

namespace {

enum class Fault {
  none,
  gradient,
  parameter,
  overwrites,
  touches,
  forgets,
  too_wide,
  allocates,
  gaps
};
std::size_t allocations = 0;

/// y = s * x^2 by element, with a fault.
class Square {
 public:
  using BackendType = B;
  struct Tape {
    ConstMatrix<B> x;
    Gradients limit = Gradients::none, gradients = Gradients::none;
    Index bound = 0;
  };
  Square(const Scope<B>& scope, Fault fault) : parameters_(scope.parameters), fault_(fault) {
    id_ = scope.add("scale", {3}, Initializer::constant(1));
  }
  Index input_width() const { return 3; }
  Index output_width() const { return 3; }
  Parameters<B>& parameters() const { return *parameters_; }
  void bind(Arena<B>& arena, Index rows, Tape& t) const {
    t.limit = arena.gradients();
    t.bound = rows;
  }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    if (fault_ != Fault::too_wide) moxie::detail::check_forward<B>("Square", x, y, 3, 3, t.bound);
    if (fault_ == Fault::allocates) ++allocations;
    t.x = x;
    t.gradients = pass.gradients < t.limit ? pass.gradients : t.limit;
    const Index stride = fault_ == Fault::gaps ? x.cols : x.stride;
    for (Index r = 0; r < x.rows; ++r)
      for (Index c = 0; c < 3; ++c) {
        const double v = x.data[r * stride + c];
        y(r, c) = scale(c) * v * v;
      }
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    const bool weights = t.gradients == Gradients::all || fault_ == Fault::touches;
    const Vector<B> d_scale = parameters_->gradient_vector(id_);
    if (weights && fault_ == Fault::overwrites) parameters_->backend().fill(d_scale, 0);
    for (Index r = 0; r < dy.rows; ++r)
      for (Index c = 0; c < 3; ++c) {
        const double v = t.x(r, c);
        if (weights) d_scale[c] += dy(r, c) * v * v * (fault_ == Fault::parameter ? 1.001 : 1);
        if (!dx) continue;
        if (fault_ == Fault::forgets && r == dy.rows - 1 && dy.rows < t.bound) continue;
        dx(r, c) = 2 * v * scale(c) * dy(r, c) + (fault_ == Fault::gradient && c == 1 ? 1e-4 : 0);
      }
  }

 private:
  double scale(Index c) const { return parameters_->vector(id_)[c]; }
  std::shared_ptr<Parameters<B>> parameters_;
  Fault fault_;
  Parameters<B>::Id id_ = 0;
};
static_assert(Layer<Square>);

testing::GradientReport check(Fault fault) {
  B backend;
  const Scope<B> scope = root(backend);
  const Square layer(scope, fault);
  scope.parameters->initialize(1);
  const testing::GradientReport report =
      testing::check_gradients(layer, 4, {.allocations = [] { return allocations; }});
  // Whatever it found, it leaves the model as it was.
  CHECK(scope.parameters->values()[0] == 1);
  CHECK(scope.parameters->gradients()[0] == 0);
  return report;
}

void check_finds(Fault fault, const std::string& text) {
  const testing::GradientReport report = check(fault);
  CHECK_FALSE(report.passed);
  CAPTURE(report.message);
  CHECK(report.message.find(text) != std::string::npos);
}

}  // namespace

TEST_CASE("check_gradients passes a correct layer") {
  const testing::GradientReport report = check(Fault::none);
  CHECK_MESSAGE(report.passed, report.message);
  CHECK(report.message.empty());
  CHECK(report.worst < 1e-8);
}

TEST_CASE("check_gradients names a wrong gradient and the law a layer breaks") {
  check_finds(Fault::gradient, "the gradient of x[");
  check_finds(Fault::parameter, "the gradient of scale[");
  check_finds(Fault::overwrites, "gradients of parameters do not accumulate");
  check_finds(Fault::touches, "a pass with Gradients::input changes gradients of parameters");
  check_finds(Fault::forgets, "fewer rows than the tape was made for");
  check_finds(Fault::too_wide, "no shape_error for an x too wide");
  check_finds(Fault::allocates, "forward and backward make 1 allocations");
  check_finds(Fault::gaps, "rows with gaps between them give other results");
}

TEST_CASE("check_gradients says where the worst gradient is") {
  const testing::GradientReport report = check(Fault::gradient);
  CHECK(report.where.ends_with(", 1]"));
  CHECK(report.worst == doctest::Approx(1e-4).epsilon(0.9));
}
