// The float functions are arithmetic of our own: measured here against the standard library in
// double.
#include "moxie/core/math.hpp"

#include <doctest/doctest.h>

#include "moxie/core/error.hpp"
#include "moxie/ops/activation.hpp"

using namespace moxie;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// |got - wanted| in units of the last place of a float of that size.
double ulps(float got, double wanted) {
  const auto size = static_cast<float>(std::fabs(wanted));
  const double unit = std::nextafter(size, inf) - size;
  return std::fabs(static_cast<double>(got) - wanted) / unit;
}
/// In double: the standard library's error is no part of what is measured.
double normal_tail(double z) { return 0.5 * std::erfc(z * std::sqrt(0.5)); }
double normal_density(double z) { return std::exp(-0.5 * z * z) / std::sqrt(2 * M_PI); }
/// Largest error over [from, to], by `error(x)`.
template <class F>
double worst(float from, float to, const F& error) {
  double most = 0;
  constexpr int n = 200000;
  for (int i = 0; i <= n; ++i) {
    const float x = from + (to - from) * (static_cast<float>(i) / n);
    most = std::max(most, error(x));
  }
  return most;
}
double gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

}  // namespace

TEST_CASE("exp in float is within 2 units in the last place") {
  CHECK(worst(-87.0F, 88.0F, [](float x) { return ulps(math::exp(x), std::exp(double(x))); }) <= 2);
  CHECK(worst(-1.0F, 1.0F, [](float x) { return ulps(math::exp(x), std::exp(double(x))); }) <= 2);
  CHECK(math::exp(0.0F) == 1.0F);
}

TEST_CASE("exp in float stays finite and keeps NaN") {
  CHECK(math::exp(-inf) == math::exp(-87.0F));  // 1.6e-38, not 0: a softmax never divides by 0
  CHECK(math::exp(-1e30F) > 0.0F);
  CHECK(math::is_finite(math::exp(inf)));
  CHECK(math::exp(1000.0F) == math::exp(88.0F));
  CHECK(math::is_nan(math::exp(not_a_number)));
  CHECK(std::isinf(math::exp(1000.0)));  // double is the standard library's
}

TEST_CASE("log in float is within 1 unit in the last place, for denormal numbers too") {
  double most = 0;
  for (std::uint32_t bits = 1; bits < 0x7f800000U; bits += 9973) {  // all sizes there are
    const auto x = __builtin_bit_cast(float, bits);
    most = std::max(most, ulps(math::log(x), std::log(double(x))));
  }
  CHECK(most <= 1);
  CHECK(worst(0.5F, 2.0F, [](float x) { return ulps(math::log(x), std::log(double(x))); }) <= 1);
  CHECK(math::log(1.0F) == 0.0F);
}

TEST_CASE("log in float has the limits of the logarithm and keeps NaN") {
  CHECK(math::log(0.0F) == -inf);
  CHECK(math::log(-0.0F) == -inf);
  CHECK(math::log(inf) == inf);
  CHECK(math::is_nan(math::log(-1.0F)));
  CHECK(math::is_nan(math::log(-1e-42F)));
  CHECK(math::is_nan(math::log(-inf)));
  CHECK(math::is_nan(math::log(not_a_number)));
}

TEST_CASE("The normal density in float is within 4 units in the last place up to 11 deviations") {
  const auto error = [](float z) { return ulps(math::normal_density(z), normal_density(z)); };
  CHECK(worst(-11.0F, 11.0F, error) <= 4);
  CHECK(worst(-1.0F, 1.0F, error) <= 4);
  CHECK(math::normal_density(11.001F) == 0.0F);
  CHECK(math::normal_density(-11.001F) == 0.0F);
  CHECK(math::normal_density(inf) == 0.0F);
  CHECK(math::normal_density(-inf) == 0.0F);
  CHECK(math::is_nan(math::normal_density(not_a_number)));
}

TEST_CASE("The normal distribution in float is within 8 units in the last place, tail included") {
  const auto error = [](float z) { return ulps(math::normal_distribution(z), normal_tail(-z)); };
  CHECK(worst(-11.0F, 11.0F, error) <= 8);
  CHECK(worst(-1.0F, 1.0F, error) <= 8);
  CHECK(math::normal_distribution(-11.001F) == 0.0F);
  CHECK(math::normal_distribution(-inf) == 0.0F);
  CHECK(math::normal_distribution(8.0F) == 1.0F);
  CHECK(math::normal_distribution(inf) == 1.0F);
  CHECK(math::is_nan(math::normal_distribution(not_a_number)));
}

TEST_CASE("The normal distribution in double keeps its tail") {
  CHECK(math::normal_distribution(-10.0) == doctest::Approx(7.619853024160525e-24).epsilon(1e-12));
  CHECK(math::normal_distribution(-30.0) == doctest::Approx(4.906713927148187e-198).epsilon(1e-11));
  CHECK(math::normal_distribution(40.0) == 1.0);
}

TEST_CASE("sigmoid in float is within 4 units in the last place, and saturates") {
  CHECK(worst(-80.0F, 80.0F,
              [](float x) { return ulps(math::sigmoid(x), 1 / (1 + std::exp(-double(x)))); }) <= 4);
  CHECK(math::sigmoid(inf) == 1.0F);
  CHECK(math::sigmoid(-inf) < 1e-37F);
  CHECK(math::is_nan(math::sigmoid(not_a_number)));
}

TEST_CASE("tanh in float is within 2e-7, absolute") {
  CHECK(worst(-20.0F, 20.0F, [](float x) {
          return std::fabs(double(math::tanh(x)) - std::tanh(double(x)));
        }) < 2e-7);
  CHECK(worst(-0.1F, 0.1F, [](float x) {
          return std::fabs(double(math::tanh(x)) - std::tanh(double(x)));
        }) < 2e-7);
  CHECK(math::tanh(0.0F) == 0.0F);
  CHECK(math::tanh(inf) == 1.0F);
  CHECK(math::tanh(-inf) == -1.0F);
  CHECK(math::is_nan(math::tanh(not_a_number)));
}

TEST_CASE("Gelu in float is within 3e-7 of its formula, relative to sizes above 1") {
  const auto error = [](float x) {
    return std::fabs(double(Gelu::value(x)) - gelu(x)) / std::fmax(1, std::fabs(double(x)));
  };
  CHECK(worst(-10.0F, 10.0F, error) < 3e-7);
  CHECK(worst(-1000.0F, 1000.0F, error) < 3e-7);
  CHECK(Gelu::value(1.0) == doctest::Approx(0.84119199).epsilon(1e-8));
  CHECK(Gelu::value(-1.0) == doctest::Approx(-0.15880801).epsilon(1e-7));
  CHECK(Gelu::derivative(1.0) == doctest::Approx(1.08296408).epsilon(1e-8));
  CHECK(GeluErf::value(1.0) == doctest::Approx(0.84134475).epsilon(1e-8));
  CHECK(math::is_nan(Gelu::value(not_a_number)));
}

TEST_CASE("select, maximum, is_finite and is_nan look at bits") {
  CHECK(math::select(true, 1.0F, not_a_number) == 1.0F);
  CHECK(math::select(false, not_a_number, 2.0F) == 2.0F);
  CHECK(math::maximum(-0.5F, -0.25F) == -0.25F);
  CHECK(math::maximum(3.0, 2.0) == 3.0);
  CHECK_FALSE(math::is_finite(inf));
  CHECK_FALSE(math::is_finite(-std::numeric_limits<double>::infinity()));
  CHECK_FALSE(math::is_finite(not_a_number));
  CHECK(math::is_finite(math::lowest<float>()));
  CHECK(math::is_finite(math::lowest<double>()));
  CHECK(math::lowest<float>() == std::numeric_limits<float>::lowest());
  CHECK(math::lowest<double>() == std::numeric_limits<double>::lowest());
  CHECK(math::is_nan(not_a_number));
  CHECK_FALSE(math::is_nan(inf));
}

TEST_CASE("softplus and the normal distribution agree with their definitions") {
  CHECK(math::softplus(0.0) == doctest::Approx(std::log(2.0)));
  CHECK(math::softplus(800.0) == 800.0);
  CHECK(math::softplus(-800.0) == 0.0);
  CHECK(math::softplus(2.0F) == doctest::Approx(std::log1p(std::exp(2.0))).epsilon(1e-6));
  CHECK(math::normal_distribution(0.0) == 0.5);
  CHECK(math::normal_distribution(1.0) == doctest::Approx(0.8413447460685429));
  CHECK(math::normal_distribution(-1.96F) == doctest::Approx(0.0249978951).epsilon(1e-5));
  CHECK(math::normal_density(0.0) == doctest::Approx(0.3989422804014327));
}

TEST_CASE("errors are of one family and say all their parts") {
  const auto text = [](auto thrower) -> std::string {
    try {
      thrower();
    } catch (const error& e) {
      return e.what();
    }
    return "";
  };
  CHECK(text([] { throw_shape("x is [", 7, " x ", 5, "]"); }) == "x is [7 x 5]");
  CHECK(text([] { throw_config("factor is ", 0.5, ", expected ", std::string("> 1")); }) ==
        "factor is 0.5, expected > 1");
  CHECK(text([] { throw_io("file"); }) == "file");
  CHECK(text([] { throw_numeric("token ", Index{3}); }) == "token 3");
  CHECK_THROWS_AS(throw_shape("x"), shape_error);
  CHECK_THROWS_AS(throw_config("x"), config_error);
  CHECK_THROWS_AS(throw_io("x"), io_error);
  CHECK_THROWS_AS(throw_numeric("x"), numeric_error);
}
