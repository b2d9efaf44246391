#include "nn/layers.hpp"

#include <span>

#include "moxie/nn/position_embedding.hpp"

using namespace moxie;
using namespace moxie::test;

namespace {

// A grid of 2 lines and 3 columns, 8 wide: w_0 = 1, w_1 = 1e-4.
std::vector<double> by_hand() {
  std::vector<double> out;
  for (const double y : {0.0, 1.0})
    for (const double x : {0.0, 1.0, 2.0})
      for (const double at : {x, y})
        for (const double v :
             {std::sin(at), std::sin(at * 1e-4), std::cos(at), std::cos(at * 1e-4)})
          out.push_back(v);
  return out;
}

}  // namespace

TEST_CASE("sincos2d gives the reference's numbers") {
  const std::vector<double> table = sincos2d({2, 3}, 8);
  check_near(table, by_hand(), 1e-12);
  // Golden values of the specification, row 5 of 6.
  const std::vector<double> golden{
      0.9092974268256816, 0.0001999999986666667, -0.4161468365471424, 0.9999999800000001,
      0.8414709848078965, 9.999999983333334e-05, 0.5403023058681397,  0.999999995};
  check_near(std::vector<double>(table.end() - 8, table.end()), golden, 1e-10);
  CHECK_THROWS_WITH_AS(sincos2d({2, 3}, 4),
                       "moxie::sincos2d: width is 4, expected a multiple of 4, at least 8",
                       config_error);
  CHECK_THROWS_WITH_AS(sincos2d({2, 3}, 10),
                       "moxie::sincos2d: width is 10, expected a multiple of 4, at least 8",
                       config_error);
}

TEST_CASE_TEMPLATE("PositionEmbedding adds waves to patches and nothing to the class token", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const Scope<B> scope = root(backend);
  const PositionEmbedding<B> layer(
      scope, {.grid = {2, 3}, .width = 8, .class_token = true, .kind = Positions::sincos2d});
  scope.parameters->initialize(1);
  CHECK(scope.parameters->size() == 0);
  CHECK(layer.tokens() == 7);
  std::vector<double> expected(8, 0.0);
  for (const double v : by_hand()) expected.push_back(v);
  check_near(outputs(layer, std::vector<double>(56, 0.0), 1), expected,
             tolerance<typename B::Scalar>);
}

TEST_CASE_TEMPLATE("PositionEmbedding adds the same learned rows to every image", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const Scope<B> scope = root(backend);
  const PositionEmbedding<B> layer(scope, {.grid = {1, 2}, .width = 1});
  scope.parameters->initialize(1);
  CHECK(scope.parameters->entry(0).name == "pos_embedding");
  CHECK(scope.parameters->entry(0).shape == std::vector<Index>{1, 2, 1});
  set_parameter(*scope.parameters, "pos_embedding", {10, 20});
  CHECK(outputs(layer, {1, 2, 3, 4}, 2) == std::vector<double>{11, 22, 13, 24});
}

TEST_CASE("zoom_positions is bilinear, maps corners to corners and keeps the class token") {
  const std::vector<double> grid{0, 1, 2, 3};  // 2 x 2, one wide
  const std::span<const double> values(grid);
  CHECK(zoom_positions(values, {2, 2}, {2, 2}, 1) == grid);
  CHECK(zoom_positions(values, {2, 2}, {3, 3}, 1) ==
        std::vector<double>{0, 0.5, 1, 1, 1.5, 2, 2, 2.5, 3});
  CHECK(zoom_positions(values, {2, 2}, {1, 1}, 1) == std::vector<double>{0});
  const std::vector<float> with_token{9, 8,  0,
                                      1, 10, 11};  // class token (9, 8), then a line of two cells
  CHECK(zoom_positions(std::span<const float>(with_token), {1, 2}, {1, 3}, 2) ==
        std::vector<float>{9, 8, 0, 1, 5, 6, 10, 11});
  // A larger grid and back: the corners stay, and so does a plane.
  const std::vector<double> up = zoom_positions(values, {2, 2}, {5, 7}, 1);
  check_near(zoom_positions(std::span<const double>(up), {5, 7}, {2, 2}, 1), grid, 1e-12);
  CHECK_THROWS_WITH_AS(
      zoom_positions(values, {2, 3}, {4, 4}, 1),
      "moxie::zoom_positions: 4 values and a new grid of [4 x 4], expected [2 x 3] rows of 1, or "
      "one row more, and a grid that is not empty",
      shape_error);
}
