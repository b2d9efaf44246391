#include "moxie/core/parameters.hpp"

#include <doctest/doctest.h>

#include "moxie/backend/cpu.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "support/errors.hpp"

namespace parameters_test {

using namespace moxie;
using test::message_of;
using B = CpuBackend<double>;

namespace {

template <class V>
std::vector<double> copy(const V& v) {
  return {v.data, v.data + v.size};
}

struct Statistics {
  double mean = 0, std_dev = 0, smallest = 1e300, largest = -1e300;

  explicit Statistics(const Initializer& initializer, int n = 40000) {
    const Random random{7, 0, 3};
    double squares = 0;
    for (int i = 0; i < n; ++i) {
      const double v = initializer(random, static_cast<std::uint64_t>(i));
      mean += v / n;
      squares += v * v / n;
      smallest = std::min(smallest, v);
      largest = std::max(largest, v);
    }
    std_dev = std::sqrt(squares - mean * mean);
  }
};

}  // namespace

TEST_CASE("entries with an expert axis lie behind the shared ones, in the order of declaration") {
  B backend;
  Parameters<B> p(backend);
  const auto a = p.add({.name = "a", .shape = {2, 3}});
  const auto e = p.add({.name = "e", .shape = {2, 2, 2}, .expert_axis = true});
  const auto b = p.add({.name = "b", .shape = {4}});
  const auto s = p.add({.name = "s", .shape = {5}, .trained = false});
  p.initialize(0);
  CHECK(p.size() == 6 + 8 + 4);
  CHECK(p.buffers().size == 5);
  CHECK(p.entry(a).offset == 0);
  CHECK(p.entry(b).offset == 6);
  CHECK(p.entry(e).offset == 10);
  CHECK(p.entry(s).offset == 0);
  CHECK(p.value(e).rows == 4);  // the last axis is the columns
  CHECK(p.value(e).cols == 2);
  CHECK(p.value(b).rows == 1);
  CHECK(p.gradient(a).data == p.gradients().data);
  CHECK(p.buffer(s).data == p.buffers().data);
  CHECK(p.vector(b).data == p.values().data + 6);
}

TEST_CASE("a range is a run of shared entries and one of experts") {
  B backend;
  const Scope<B> scope = root(backend);
  (scope / "A").add("kernel", {3}, Initializer::zeros());
  (scope / "A").add_experts("kernels", {2, 5}, Initializer::zeros(), false);
  (scope / "B").add("kernel", {7}, Initializer::zeros());
  (scope / "B").add_experts("kernels", {2, 2}, Initializer::zeros(), false);
  const Parameters<B>& p = *scope.parameters;
  scope.parameters->initialize(0);
  const ParameterRange all = p.range();
  CHECK(all.shared.first == 0);
  CHECK(all.shared.size == 10);
  CHECK(all.experts.first == 10);
  CHECK(all.experts.size == 14);
  const ParameterRange b = p.range("B/");
  CHECK(b.shared.first == 3);
  CHECK(b.shared.size == 7);
  CHECK(b.experts.first == 20);
  CHECK(b.experts.size == 4);
  CHECK(message_of<config_error>([&] { (void)p.range("C/"); }) ==
        "moxie::Parameters::range: there is no trained entry in 'C/'");
}

TEST_CASE("a range of entries that lie apart is refused by name") {
  B backend;
  Parameters<B> p(backend);
  p.add({.name = "A/x", .shape = {2}});
  p.add({.name = "B/x", .shape = {2}});
  p.add({.name = "A/y", .shape = {2}});
  p.initialize(0);
  CHECK(
      message_of<config_error>([&] { (void)p.range("A/"); }) ==
      "moxie::Parameters::range: the entries of 'A/' do not lie together: 'A/y' is apart; give the "
      "prefix of one Scope");
}

TEST_CASE("a name can be taken once, and only before the parameters are laid out") {
  B backend;
  const Scope<B> scope = root(backend) / "Moe";
  scope.add("kernel", {2}, Initializer::zeros());
  CHECK(message_of<config_error>([&] { scope.add("kernel", {3}, Initializer::zeros()); }) ==
        "moxie::Parameters::add: the name 'Moe/kernel' is taken: give each layer its own Scope");
  scope.parameters->initialize(0);
  CHECK(message_of<config_error>([&] { scope.add("bias", {3}, Initializer::zeros()); }) ==
        "moxie::Parameters::add: 'Moe/bias' comes after initialize: layers are declared first");
}

TEST_CASE("initial values depend on seed, name and element only") {
  B backend;
  const auto values = [&](std::uint64_t seed, bool others_first) {
    const Scope<B> scope = root(backend);
    if (others_first) scope.add("other", {9}, Initializer::normal(1));
    const auto id = scope.add("kernel", {4, 5}, Initializer::normal(1));
    if (!others_first) scope.add("other", {3}, Initializer::normal(1));
    scope.parameters->initialize(seed);
    return copy(scope.parameters->vector(id));
  };
  CHECK(values(1, true) == values(1, false));
  CHECK(values(1, true) != values(2, true));
}

TEST_CASE("initialize again refills, and raises the version as edit does") {
  B backend;
  Parameters<B> p(backend);
  p.add({.name = "x", .shape = {3}, .initializer = Initializer::normal(1)});
  p.initialize(5);
  const std::vector<double> start = copy(p.values());
  const std::uint64_t version = p.version();
  p.edit()[1] = 100;
  CHECK(p.version() > version);
  CHECK(p.values()[1] == 100);
  const std::uint64_t edited = p.version();
  p.initialize(5);
  CHECK(p.version() > edited);
  CHECK(copy(p.values()) == start);
}

TEST_CASE("same_experts starts every expert alike") {
  B backend;
  Parameters<B> p(backend);
  const auto same = p.add({.name = "same",
                           .shape = {3, 2, 2},
                           .initializer = Initializer::normal(1),
                           .expert_axis = true,
                           .same_experts = true});
  const auto apart = p.add({.name = "apart",
                            .shape = {3, 2, 2},
                            .initializer = Initializer::normal(1),
                            .expert_axis = true});
  p.initialize(1);
  const std::vector<double> s = copy(p.vector(same));
  const std::vector<double> a = copy(p.vector(apart));
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(s[i] == s[i + 4]);
    CHECK(s[i] == s[i + 8]);
    CHECK(a[i] != a[i + 4]);
  }
}

TEST_CASE("uniform values are the initializer's, however many threads draw them") {
  ThreadPool pool(3);
  B backend(pool);
  Parameters<B> p(backend);
  const Initializer uniform = Initializer::xavier_uniform(100, 200);
  const auto kernel = p.add({.name = "kernel", .shape = {100, 200}, .initializer = uniform});
  p.initialize(1);
  const std::vector<double> values = copy(p.vector(kernel));
  const Random random(1, 0, stream_id("kernel"));
  bool equal = true;
  for (std::size_t i = 0; i < values.size(); ++i) equal = equal && values[i] == uniform(random, i);
  CHECK(equal);
}

TEST_CASE("zero_gradients zeroes what passes have added") {
  B backend;
  Parameters<B> p(backend);
  p.add({.name = "x", .shape = {3}});
  p.initialize(0);
  p.gradients()[2] = 4;
  p.zero_gradients();
  CHECK(copy(p.gradients()) == std::vector<double>(3, 0.0));
}

TEST_CASE("initializers have the statistics of their names") {
  const Statistics normal(Initializer::normal(0.5));
  CHECK(std::fabs(normal.mean) < 0.01);
  CHECK(normal.std_dev == doctest::Approx(0.5).epsilon(0.02));

  const Statistics lecun(Initializer::lecun_normal(16));  // variance 1 / 16, cut at two deviations
  CHECK(std::fabs(lecun.mean) < 0.005);
  CHECK(lecun.std_dev == doctest::Approx(0.25).epsilon(0.02));
  const double cut = 2 * 0.25 / 0.87962566103423978;
  CHECK(lecun.largest < cut);
  CHECK(lecun.largest > 0.95 * cut);
  CHECK(lecun.smallest > -cut);

  const Statistics xavier(Initializer::xavier_uniform(10, 14));  // +- sqrt(6 / 24)
  CHECK(xavier.smallest >= -0.5);
  CHECK(xavier.largest < 0.5);
  CHECK(xavier.largest > 0.499);
  CHECK(xavier.std_dev == doctest::Approx(1 / std::sqrt(12.0)).epsilon(0.02));

  CHECK(Initializer::constant(3)({}, 17) == 3);
  CHECK(Initializer::zeros()({}, 17) == 0);
}

}  // namespace parameters_test
