#include "moxie/train/step.hpp"

#include "device/allocations.hpp"
#include "moxie/nn/linear.hpp"
#include "moxie/optimizer/adam_w.hpp"
#include "moxie/optimizer/sgd.hpp"
#include "moxie/train/supervised.hpp"
#include "support/backends.hpp"

namespace step_test {

namespace {

using moxie::Index;

/// Two linear layers in a row, each in its own scope.
template <class B>
class TwoLinear {
 public:
  using BackendType = B;
  struct Tape {
    typename moxie::Linear<B>::Tape one, two;
    moxie::Matrix<B> middle, d_middle;
  };

  TwoLinear(B& backend, Index in, Index width, Index classes)
      : scope_(moxie::root(backend)),
        one_(scope_ / "One", in, width),
        two_(scope_ / "Two", width, classes) {
    scope_.parameters->initialize(5);
  }
  Index input_width() const { return one_.input_width(); }
  Index output_width() const { return two_.output_width(); }
  moxie::Parameters<B>& parameters() const { return *scope_.parameters; }
  void bind(moxie::Arena<B>& arena, Index rows, Tape& t) const {
    t.middle = arena.template kept<typename B::Scalar>(rows, one_.output_width());
    t.d_middle = arena.template kept<typename B::Scalar>(rows, one_.output_width());
    one_.bind(arena, rows, t.one);
    two_.bind(arena, rows, t.two);
  }
  void forward(moxie::ConstMatrix<B> x, moxie::Matrix<B> y, Tape& t,
               const moxie::Pass<B>& pass) const {
    one_.forward(x, t.middle.top(x.rows), t.one, pass);
    two_.forward(t.middle.top(x.rows), y, t.two, pass);
  }
  void backward(moxie::ConstMatrix<B> dy, moxie::Matrix<B> dx, Tape& t) const {
    two_.backward(dy, t.d_middle.top(dy.rows), t.two);
    one_.backward(t.d_middle.top(dy.rows), dx, t.one);
  }

 private:
  moxie::Scope<B> scope_;
  moxie::Linear<B> one_, two_;
};

constexpr Index images = 12;
constexpr Index width = 5;
constexpr Index classes = 3;

/// Images whose class is where they are largest, of the first three numbers.
template <class B>
struct Data {
  using T = typename B::Scalar;
  moxie::test::Buffer<T, B> x, labels;

  explicit Data(B& backend) : x(backend, images * width, 0), labels(backend, images * classes, 0) {
    std::vector<T> x_host, label_host(static_cast<std::size_t>(images * classes), T(0));
    for (Index i = 0; i < images * width; ++i)
      x_host.push_back(static_cast<T>(std::sin(static_cast<double>(3 * i * i + i))));
    for (Index i = 0; i < images; ++i) {
      const auto first = x_host.begin() + i * width;
      const auto best = std::max_element(first, first + classes) - first;
      label_host[static_cast<std::size_t>(i * classes + best)] = 1;
    }
    x.assign(x_host);
    labels.assign(label_host);
  }
  moxie::Batch<B> batch(Index n = images) const {
    return {x.view(n, width), labels.view(n, classes)};
  }
};

template <class B>
std::vector<typename B::Scalar> values_of(B& backend, moxie::ConstVector<B> v) {
  std::vector<typename B::Scalar> host(static_cast<std::size_t>(v.size));
  backend.copy_to_host(host.data(), v.data, host.size() * sizeof(typename B::Scalar));
  return host;
}

double mean(const auto& values) {
  double sum = 0;
  for (const auto v : values) sum += static_cast<double>(v);
  return sum / static_cast<double>(values.size());
}

static_assert(moxie::Objective<moxie::Supervised, TwoLinear<moxie::CpuBackend<float>>>);

}  // namespace

TEST_CASE_TEMPLATE("Supervised leaves the gradient of the mean loss", B,
                   moxie::CpuBackend<double>) {
  B backend = moxie::test::make_backend<B>();
  const TwoLinear<B> model(backend, width, 4, classes);
  const Data<B> data(backend);
  for (const auto loss : {moxie::Supervised::Loss::softmax, moxie::Supervised::Loss::sigmoid}) {
    const moxie::Supervised objective{.loss = loss};
    moxie::OwnedObjectiveState<TwoLinear<B>, moxie::Supervised> state(objective, model, images);
    moxie::Parameters<B>& p = model.parameters();
    p.zero_gradients();
    objective.accumulate(model, data.batch(), *state, {});
    const auto gradient = values_of<B>(backend, p.gradients());
    const auto loss_at = [&](Index i, double shift) {
      p.edit()[i] += shift;
      objective.accumulate(model, data.batch(), *state, {});
      p.edit()[i] -= shift;
      return mean(state->read_losses(backend));
    };
    for (Index i = 0; i < p.size(); ++i) {
      const double difference = (loss_at(i, 1e-5) - loss_at(i, -1e-5)) / 2e-5;
      CHECK(gradient[static_cast<std::size_t>(i)] == doctest::Approx(difference).epsilon(1e-6));
    }
  }
}

TEST_CASE("Supervised checks shapes before it writes") {
  using B = moxie::CpuBackend<float>;
  B backend;
  const TwoLinear<B> model(backend, width, 4, classes);
  const Data<B> data(backend);
  const moxie::Supervised objective;
  moxie::OwnedObjectiveState<TwoLinear<B>, moxie::Supervised> state(objective, model, 6);
  CHECK_THROWS_WITH_AS(objective.accumulate(model, data.batch(), *state, {}),
                       "moxie::Supervised::accumulate: the batch has 12 images, the state was made "
                       "for at most 6",
                       moxie::shape_error);
  moxie::Batch<B> narrow = data.batch(4);
  narrow.labels.cols = 2;
  CHECK_THROWS_WITH_AS(objective.accumulate(model, narrow, *state, {}),
                       "moxie::Supervised::accumulate: labels are [4 x 2], expected [4 x 3]",
                       moxie::shape_error);
  objective.accumulate(model, data.batch(4), *state, {});
  CHECK(state->read_losses(backend).size() == 4);
}

TEST_CASE_TEMPLATE("A few steps learn a small task", B, MOXIE_TEST_BACKENDS) {
  B backend = moxie::test::make_backend<B>();
  const TwoLinear<B> model(backend, width, 8, classes);
  const Data<B> data(backend);
  moxie::train::Step step{model,
                          moxie::Supervised{},
                          moxie::AdamW{.decay = moxie::Decay::none()},
                          model.parameters().range(),
                          images,
                          {.clip = moxie::ClipByGlobalNorm{.limit = 1}}};
  step(data.batch(), 0.05, {});
  const double before = mean(step.objective_state().read_losses(backend));
  CHECK(step.read_gradient_norm() > 0);
  for (std::uint64_t t = 1; t < 200; ++t) step(data.batch(), 0.05, {.step = t});
  CHECK(mean(step.objective_state().read_losses(backend)) < 0.1 * before);
  CHECK(step.optimizer_state().step() == 200);
}

TEST_CASE_TEMPLATE("A step of a range leaves the rest of the model bit for bit", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = moxie::test::make_backend<B>();
  const TwoLinear<B> model(backend, width, 4, classes);
  const Data<B> data(backend);
  moxie::Parameters<B>& p = model.parameters();
  const moxie::ParameterRange range = p.range("Two/");
  moxie::train::Step step{model, moxie::Supervised{}, moxie::Sgd{}, range, images};
  const auto before = values_of<B>(backend, p.values());
  step(data.batch(), 0.1, {});
  const auto after = values_of<B>(backend, p.values());
  for (Index i = 0; i < p.size(); ++i) {
    const bool inside = i >= range.shared.first && i < range.shared.first + range.shared.size;
    CHECK((after[static_cast<std::size_t>(i)] != before[static_cast<std::size_t>(i)]) == inside);
  }
}

TEST_CASE_TEMPLATE("A step names the tensor whose gradient is not finite, and changes nothing", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = moxie::test::make_backend<B>();
  const TwoLinear<B> model(backend, width, 4, classes);
  Data<B> data(backend);
  moxie::Parameters<B>& p = model.parameters();
  std::vector<T> x = data.x.to_vector();
  x[3] = std::numeric_limits<T>::infinity();  // image 0, column 3: the scores are not finite
  data.x.assign(x);

  for (const bool clipped : {false, true}) {
    moxie::train::StepOptions options;
    if (clipped) options.clip = moxie::ClipByGlobalNorm{};
    moxie::train::Step step{model, moxie::Supervised{}, moxie::AdamW{}, p.range(), images, options};
    const auto before = values_of<B>(backend, p.values());
    CHECK_THROWS_WITH_AS(step(data.batch(), 0.1, {.step = 42}),
                         "moxie::train::Step: the gradient of 'One/kernel' is not finite, first at "
                         "element 0 of 20, in step 42",
                         moxie::numeric_error);
    moxie::train::Step second{model,  moxie::Supervised{}, moxie::AdamW{}, p.range("Two/"), images,
                              options};
    CHECK_THROWS_WITH_AS(second(data.batch(), 0.1, {.step = 7}),
                         "moxie::train::Step: the gradient of 'Two/kernel' is not finite, first at "
                         "element 0 of 12, in step 7",
                         moxie::numeric_error);
    CHECK(values_of<B>(backend, p.values()) == before);
    CHECK(step.optimizer_state().step() == 0);
  }
  moxie::train::Step trusting{model,  moxie::Supervised{},    moxie::Sgd{}, p.range(),
                              images, {.check_finite = false}};
  CHECK_NOTHROW(trusting(data.batch(), 0.1, {}));
}

TEST_CASE_TEMPLATE("A step allocates nothing", T, float, double) {
  using B = moxie::CpuBackend<T>;
  B backend;
  const TwoLinear<B> model(backend, width, 4, classes);
  const Data<B> data(backend);
  moxie::train::Step step{model,          moxie::Supervised{},
                          moxie::AdamW{}, model.parameters().range(),
                          images,         {.clip = moxie::ClipByGlobalNorm{}}};
  const auto batch = data.batch();
  const int before = moxie::test::allocations();
  step(batch, 0.01, {});
  CHECK(moxie::test::allocations() == before);
}

}  // namespace step_test
