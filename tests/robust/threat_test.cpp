#include "moxie/robust/threat.hpp"

#include <cmath>

#include "support/backends.hpp"
#include "support/errors.hpp"
#include "support/numbers.hpp"

namespace threat_test {

namespace {

using moxie::Index;
using moxie::Norm;
using moxie::Threat;

constexpr Index rows = 200;
constexpr Index width = 37;

/// Points of the box, and points anywhere.
template <class B>
struct Points {
  using T = typename B::Scalar;
  std::vector<T> centers, wild;

  Points() {
    const auto draw = moxie::test::normals(2 * rows * width, 9);
    for (Index i = 0; i < rows * width; ++i) {
      const double v = std::abs(draw[static_cast<std::size_t>(i)]) / 3;
      centers.push_back(static_cast<T>(i % 11 == 0 ? 0.0 : i % 13 == 0 ? 1.0 : v > 1 ? 1.0 : v));
      wild.push_back(static_cast<T>(draw[static_cast<std::size_t>(rows * width + i)]));
    }
  }
};

}  // namespace

TEST_CASE_TEMPLATE("projection to a ball leads inside by not one ulp too little", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = moxie::test::make_backend<B>();
  const Points<B> points;
  const moxie::test::Buffer<T, B> center(backend, points.centers);
  moxie::test::Buffer<T, B> x(backend, points.wild);
  for (const Norm norm : {Norm::linf, Norm::l2})
    for (const double eps : {8.0 / 255, 1.0 / 3, 1e-6, 0.0}) {
      CAPTURE(eps);
      x.assign(points.wild);
      moxie::project_rows(backend, Threat{.norm = norm, .eps = eps},
                          moxie::ConstMatrix<B>(center.view(rows, width)), x.view(rows, width));
      const auto got = x.to_vector();
      int on_the_face = 0;
      for (Index r = 0; r < rows; ++r) {
        long double square = 0;
        for (Index j = 0; j < width; ++j) {
          const auto i = static_cast<std::size_t>(r * width + j);
          // Exact: long double holds the difference of any two of these doubles near each other
          const long double d = static_cast<long double>(got[i]) - points.centers[i];
          square += d * d;
          REQUIRE(got[i] >= T(0));
          REQUIRE(got[i] <= T(1));
          if (norm == Norm::linf) {
            REQUIRE(std::abs(d) <= static_cast<long double>(eps));
            const T above = std::nextafter(got[i], T(2));
            on_the_face += static_cast<long double>(above) - points.centers[i] > eps ? 1 : 0;
          }
        }
        if (norm == Norm::l2) {
          const auto length = static_cast<double>(std::sqrt(square));
          REQUIRE(length <= eps * (1 + 4e-16));
          on_the_face += length >= eps - (sizeof(T) == 4 ? 4e-6 : 1e-14) ? 1 : 0;
        }
      }
      CHECK(on_the_face > rows / 4);  // as near to the bound as numbers go
    }
}

TEST_CASE_TEMPLATE("projection leaves alone what is inside", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = moxie::test::make_backend<B>();
  const moxie::test::Buffer<T, B> center(backend, {T(0.5), T(0.25), T(0)});
  moxie::test::Buffer<T, B> x(backend, {T(0.55), T(0.2), T(0.01)});
  for (const Norm norm : {Norm::linf, Norm::l2}) {
    const auto before = x.to_vector();
    moxie::project_rows(backend, Threat{.norm = norm, .eps = 0.1},
                        moxie::ConstMatrix<B>(center.view(1, 3)), x.view(1, 3));
    CHECK(x.to_vector() == before);
  }
}

TEST_CASE("projection by hand, to a ball of length and with pixels that stop at the box") {
  moxie::CpuBackend<double> backend;
  const double center[] = {0.5, 0.5, 0.0};
  double x[] = {0.8, 0.9, -3.0};
  moxie::project_rows(backend, Threat{.norm = Norm::l2, .eps = 0.25},
                      moxie::ConstMatrix<moxie::CpuBackend<double>>(center, 1, 3),
                      moxie::Matrix<moxie::CpuBackend<double>>(x, 1, 3));
  CHECK(x[0] == doctest::Approx(0.65).epsilon(1e-14));  // (.3, .4, 0), half as long
  CHECK(x[1] == doctest::Approx(0.7).epsilon(1e-14));
  CHECK(x[2] == 0.0);
}

TEST_CASE("threats that make no sense are refused") {
  const auto message = [](const Threat& t) {
    return moxie::test::message_of<moxie::config_error>(
        [&] { moxie::detail::check_threat("Attack", t); });
  };
  CHECK(message({.eps = -1}) == "Attack: eps is -1, expected a finite number >= 0");
  CHECK(message({.low = 1, .high = 0}) == "Attack: the box is [1, 0], expected finite low < high");
  CHECK(message({}) == "no error");
}

}  // namespace threat_test
