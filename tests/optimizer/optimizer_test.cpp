#include "device/allocations.hpp"
#include "moxie/optimizer/adam_w.hpp"
#include "moxie/optimizer/clip.hpp"
#include "moxie/optimizer/sgd.hpp"
#include "optimizer/model.hpp"
#include "support/backends.hpp"

namespace {

using moxie::Decay;
using moxie::Index;
using moxie::test::tolerance;

// The trajectory of the specification's test vector 24: three steps at learning rate 0.1.
const std::vector<double> start = {0.947, 0.269, 1.838};
const std::vector<std::vector<double>> gradients = {
    {0.068, -1.335, 1.739}, {0.057, 1.615, -0.999}, {1.199, -0.261, 0.51}};

template <class B, class O>
void check_trajectory(const O& optimizer, const std::vector<std::vector<double>>& expected) {
  B backend = moxie::test::make_backend<B>();
  moxie::Parameters<B> p(backend);
  moxie::test::add(p, "w/kernel", {3});
  p.initialize(0);
  moxie::test::to_device(backend, p.edit(), start);
  typename O::template State<B> state(optimizer, p);
  for (std::size_t t = 0; t < gradients.size(); ++t) {
    moxie::test::to_device(backend, p.gradients(), gradients[t]);
    optimizer.update(p, p.range(), state, 0.1);
    const auto values = moxie::test::to_host(backend, p.values());
    for (std::size_t i = 0; i < 3; ++i)
      CHECK(std::abs(static_cast<double>(values[i]) - expected[t][i]) <
            tolerance<typename B::Scalar>);
  }
  CHECK(state.step() == 3);
}

template <class B, class O>
void check_quadratic(const O& optimizer, double learning_rate) {
  B backend = moxie::test::make_backend<B>();
  moxie::Parameters<B> p(backend);
  moxie::test::add(p, "w/bias", {4});
  p.initialize(3);
  typename O::template State<B> state(optimizer, p);
  const std::vector<double> target = {1, -2, 0.5, 3};
  const std::vector<double> curvature = {1, 2, 0.5, 4};
  for (int t = 0; t < 2000; ++t) {
    const auto w = moxie::test::to_host(backend, p.values());
    std::vector<double> g;
    for (std::size_t i = 0; i < 4; ++i)
      g.push_back(curvature[i] * (static_cast<double>(w[i]) - target[i]));
    moxie::test::to_device(backend, p.gradients(), g);
    optimizer.update(p, p.range(), state, learning_rate);
  }
  const auto w = moxie::test::to_host(backend, p.values());
  for (std::size_t i = 0; i < 4; ++i)
    CHECK(static_cast<double>(w[i]) == doctest::Approx(target[i]).epsilon(1e-3));
}

/// A model of several runs: shared and expert entries of two scopes, decayed and not.
template <class B>
struct TwoScopes {
  B backend = moxie::test::make_backend<B>();
  moxie::Parameters<B> p{backend};

  TwoScopes() {
    for (const std::string scope : {"One/", "Two/"}) {
      moxie::test::add(p, scope + "kernel", {7, 5});
      moxie::test::add(p, scope + "bias", {5});
      moxie::test::add(p, scope + "Moe/kernel", {3, 4, 5}, true);
      moxie::test::add(p, scope + "Moe/bias", {3, 5}, true);
    }
    p.initialize(1);
    std::vector<double> g(static_cast<std::size_t>(p.size()));
    for (std::size_t i = 0; i < g.size(); ++i) g[i] = std::sin(static_cast<double>(i));
    moxie::test::to_device(backend, p.gradients(), g);
  }
};

template <class B, class O>
void check_range(const O& optimizer) {
  TwoScopes<B> m;
  typename O::template State<B> state(optimizer, m.p);
  const auto before = moxie::test::to_host(m.backend, m.p.values());
  const auto version = m.p.version();
  const moxie::ParameterRange range = m.p.range("Two/");
  optimizer.update(m.p, range, state, 0.01);
  const auto after = moxie::test::to_host(m.backend, m.p.values());
  CHECK(m.p.version() > version);
  for (Index i = 0; i < m.p.size(); ++i) {
    const auto inside = [i](const moxie::ParameterRange::Run& run) {
      return i >= run.first && i < run.first + run.size;
    };
    const auto at = static_cast<std::size_t>(i);
    const bool moved = after[at] != before[at];
    // The gradient of element 0 is 0, but it lies outside.
    CHECK(moved == (inside(range.shared) || inside(range.experts)));
    for (const auto& moment : state.moments()) {
      const auto m_host = moxie::test::to_host<B>(m.backend, moment.values);
      CHECK((m_host[at] != 0) == moved);
    }
  }
}

template <class B, class O>
void check_restored(const O& optimizer) {
  TwoScopes<B> m;
  using State = typename O::template State<B>;
  State first(optimizer, m.p);
  for (int t = 0; t < 3; ++t) optimizer.update(m.p, m.p.range(), first, 0.01);

  TwoScopes<B> other;
  State second(optimizer, other.p);
  const auto copy = [&](moxie::ConstVector<B> from, moxie::Vector<B> to) {
    const auto host = moxie::test::to_host(m.backend, from);
    other.backend.copy_from_host(to.data, host.data(), host.size() * sizeof(host[0]));
  };
  copy(m.p.values(), other.p.edit());
  for (std::size_t i = 0; i < first.moments().size(); ++i)
    copy(first.moments()[i].values, second.moments()[i].values);
  second.restore_step(first.step());

  for (int t = 0; t < 3; ++t) {
    optimizer.update(m.p, m.p.range(), first, 0.02);
    optimizer.update(other.p, other.p.range(), second, 0.02);
  }
  CHECK(moxie::test::to_host(m.backend, m.p.values()) ==
        moxie::test::to_host(other.backend, other.p.values()));
}

template <class B, class O>
void check_no_allocation(const O& optimizer) {
  TwoScopes<B> m;
  typename O::template State<B> state(optimizer, m.p);
  moxie::ClipByGlobalNorm::State<B> clip_state(m.p);
  const moxie::ParameterRange range = m.p.range();
  const int before = moxie::test::allocations();
  moxie::ClipByGlobalNorm{.limit = 0.5}(m.p, range, clip_state);
  optimizer.update(m.p, range, state, 0.01);
  CHECK(moxie::test::allocations() == before);
}

template <class B, class O>
void check_errors(const O& optimizer, const std::string& who) {
  TwoScopes<B> m;
  typename O::template State<B> state(optimizer, m.p);
  const auto before = moxie::test::to_host(m.backend, m.p.values());
  CHECK_THROWS_WITH_AS(optimizer.update(m.p, m.p.range(), state, -1),
                       (who + "::update: learning_rate must be >= 0, got -1").c_str(),
                       moxie::config_error);
  CHECK_THROWS_AS(optimizer.update(m.p, m.p.range(), state, std::nan("")), moxie::config_error);
  moxie::ParameterRange outside;
  outside.experts = {m.p.size() - 1, 2};
  CHECK_THROWS_AS(optimizer.update(m.p, outside, state, 0.1), moxie::shape_error);

  moxie::Parameters<B> small(m.backend);
  moxie::test::add(small, "w/kernel", {3});
  small.initialize(0);
  CHECK_THROWS_WITH_AS(
      optimizer.update(small, small.range(), state, 0.1),
      (who + "::update: the state was made for 230 parameters, the model has 3").c_str(),
      moxie::shape_error);
  CHECK(state.step() == 0);
  CHECK(moxie::test::to_host(m.backend, m.p.values()) == before);
}

static_assert(moxie::Optimizer<moxie::Sgd, moxie::CpuBackend<float>>);
static_assert(moxie::Optimizer<moxie::AdamW, moxie::CpuBackend<float>>);

}  // namespace

TEST_CASE_TEMPLATE("AdamW follows a known trajectory", B, MOXIE_TEST_BACKENDS) {
  check_trajectory<B>(moxie::AdamW{},
                      {{0.8375300147058802, 0.3663099992509364, 1.7196200005750433},
                       {0.7299967391324895, 0.347958923259065, 1.6814111104215137},
                       {0.6533369711614796, 0.3411143227474315, 1.6330992168607337}});
}

TEST_CASE_TEMPLATE("Sgd follows a known trajectory", B, MOXIE_TEST_BACKENDS) {
  check_trajectory<B>(moxie::Sgd{}, {{0.9401999999999999, 0.4025, 1.6641},
                                     {0.92838, 0.36115, 1.60749},
                                     {0.797842, 0.350035, 1.505541}});
}

TEST_CASE_TEMPLATE("Optimizers find the minimum of a quadratic", B, MOXIE_TEST_BACKENDS) {
  check_quadratic<B>(moxie::AdamW{}, 0.02);
  check_quadratic<B>(moxie::Sgd{}, 0.02);
}

TEST_CASE_TEMPLATE("Optimizers change a range and no bit elsewhere", B, MOXIE_TEST_BACKENDS) {
  check_range<B>(moxie::AdamW{});
  check_range<B>(moxie::Sgd{});
}

TEST_CASE_TEMPLATE("A restored optimizer goes on bit for bit", B, MOXIE_TEST_BACKENDS) {
  check_restored<B>(moxie::AdamW{});
  check_restored<B>(moxie::Sgd{});
}

TEST_CASE_TEMPLATE("Optimizers and clipping allocate nothing in a step", T, float, double) {
  check_no_allocation<moxie::CpuBackend<T>>(moxie::AdamW{});
  check_no_allocation<moxie::CpuBackend<T>>(moxie::Sgd{});
}

TEST_CASE("Optimizers refuse what makes no sense, before anything is written") {
  using B = moxie::CpuBackend<double>;
  check_errors<B>(moxie::AdamW{}, "moxie::AdamW");
  check_errors<B>(moxie::Sgd{}, "moxie::Sgd");

  TwoScopes<B> m;
  using Adam = moxie::AdamW::State<B>;
  CHECK_THROWS_AS(Adam(moxie::AdamW{.beta1 = 1}, m.p), moxie::config_error);
  CHECK_THROWS_AS(Adam(moxie::AdamW{.beta2 = -0.1}, m.p), moxie::config_error);
  CHECK_THROWS_AS(Adam(moxie::AdamW{.epsilon = 0}, m.p), moxie::config_error);
  TwoScopes<moxie::CpuBackend<float>> narrow;  // whose second moments below 1e-30 are 0
  CHECK_THROWS_WITH_AS(
      moxie::AdamW::State<moxie::CpuBackend<float>>(moxie::AdamW{.epsilon = 1e-16}, narrow.p),
      "moxie::AdamW: epsilon must be >= 1e-12 in float, got 1e-16", moxie::config_error);
  CHECK_NOTHROW(Adam(moxie::AdamW{.epsilon = 1e-16}, m.p));
  CHECK_THROWS_AS(moxie::Sgd::State<B>(moxie::Sgd{.momentum = 1}, m.p), moxie::config_error);
  CHECK_THROWS_WITH_AS(Adam(moxie::AdamW{.decay = Decay::kernels(-1)}, m.p),
                       "moxie::Decay: the rate of 'kernel' must be >= 0 and finite, got -1",
                       moxie::config_error);
}

TEST_CASE("Optimizers give the same bits for any number of elements around") {
  // An element in the tail of a run and the same one inside a strip.
  using B = moxie::CpuBackend<float>;
  B backend;
  std::vector<float> last;
  for (const Index size : {3, 63, 64, 65, 130}) {
    moxie::Parameters<B> p(backend);
    moxie::test::add(p, "kernel", {size});
    p.initialize(0);
    std::vector<double> values(static_cast<std::size_t>(size), 0.7);
    std::vector<double> g(static_cast<std::size_t>(size), 0.3);
    moxie::test::to_device(backend, p.edit(), values);
    moxie::test::to_device(backend, p.gradients(), g);
    moxie::AdamW::State<B> state(moxie::AdamW{}, p);
    moxie::AdamW{}.update(p, p.range(), state, 1e-3);
    const auto now = moxie::test::to_host(backend, p.values());
    last.push_back(now.front());
    last.push_back(now.back());
  }
  CHECK(std::all_of(last.begin(), last.end(), [&](float v) { return v == last[0]; }));
}

TEST_CASE("The root of AdamW is a square root") {
  for (float x = 1.2e-38F; x < 3e38F; x *= 1.0371F) {
    const double exact = std::sqrt(static_cast<double>(x));
    CHECK(std::abs(static_cast<double>(moxie::detail::root(x)) - exact) < 1.2e-7 * exact);
  }
  CHECK(moxie::detail::root(0.0F) == 0);
  CHECK(moxie::detail::root(1e-45F) < 1e-18F);  // far below epsilon
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(moxie::detail::root(infinity) == infinity);
  CHECK(std::isnan(moxie::detail::root(std::nanf(""))));
}
