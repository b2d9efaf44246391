#include "moxie/nn/convolution.hpp"

#include "moxie/layer/any_layer.hpp"
#include "moxie/nn/residual_network.hpp"
#include "nn/layers.hpp"
#include "support/errors.hpp"

namespace {

using moxie::Index;
using moxie::WindowShape;
using moxie::test::check_layer;
using moxie::test::message_of;

template <class B, class Make>
void check(Index rows, const moxie::testing::GradientOptions<B>& options, const Make& make) {
  B backend = moxie::test::make_backend<B>();
  const moxie::Scope<B> scope = moxie::root(backend);
  const moxie::AnyLayer<B> layer = make(scope);
  scope.parameters->initialize(3);
  check_layer(layer, rows, options);
}

/// Of an image: y[window, o] = b[o] + the sum over the window's pixels inside the image.
std::vector<double> convolve(const WindowShape& s, const std::vector<double>& x,
                             const std::vector<double>& kernel, const std::vector<double>& bias) {
  const auto outputs = static_cast<Index>(bias.size());
  std::vector<double> y;
  for (Index oy = 0; oy < s.down(); ++oy)
    for (Index ox = 0; ox < s.across(); ++ox)
      for (Index o = 0; o < outputs; ++o) {
        double sum = bias[static_cast<std::size_t>(o)];
        for (Index i = 0; i < s.size; ++i)
          for (Index j = 0; j < s.size; ++j)
            for (Index c = 0; c < s.channels; ++c) {
              const Index py = oy * s.stride + i - s.padding, px = ox * s.stride + j - s.padding;
              if (py < 0 || py >= s.height || px < 0 || px >= s.width) continue;
              sum += x[static_cast<std::size_t>((py * s.width + px) * s.channels + c)] *
                     kernel[static_cast<std::size_t>(((i * s.size + j) * s.channels + c) * outputs +
                                                     o)];
            }
        y.push_back(sum);
      }
  return y;
}

constexpr WindowShape shapes[] = {
    {.height = 5, .width = 4, .channels = 3},
    {.height = 5, .width = 6, .channels = 2, .size = 3, .stride = 2, .padding = 1},
    {.height = 4, .width = 4, .channels = 17, .size = 1, .stride = 2, .padding = 0},
    {.height = 3, .width = 7, .channels = 1, .size = 5, .stride = 3, .padding = 4},
    {.height = 4, .width = 4, .channels = 2, .size = 2, .stride = 1, .padding = 0}};

}  // namespace

TEST_CASE_TEMPLATE("a convolution is the sum over its windows", B, MOXIE_TEST_BACKENDS) {
  B backend = moxie::test::make_backend<B>();
  for (const WindowShape& s : shapes) {
    constexpr Index images = 3, outputs = 4;
    const auto kernel = moxie::test::normals(s.columns() * outputs, 5);
    const auto bias = moxie::test::normals(outputs, 6);
    const auto scope = moxie::root(backend);
    const moxie::Convolution<B> layer(scope, s, outputs);
    scope.parameters->initialize(1);
    moxie::test::set_parameter(*scope.parameters, "kernel", kernel);
    moxie::test::set_parameter(*scope.parameters, "bias", bias);
    const auto x = moxie::test::normals(images * s.pixels(), 7);
    std::vector<double> wanted;
    for (Index i = 0; i < images; ++i) {
      const auto first = x.begin() + i * s.pixels();
      const auto y = convolve(s, {first, first + s.pixels()}, kernel, bias);
      wanted.insert(wanted.end(), y.begin(), y.end());
    }
    CHECK(layer.output_width() == s.windows() * outputs);
    const double by = std::is_same_v<typename B::Scalar, float> ? 1e-4 : 1e-12;
    moxie::test::check_near(moxie::test::outputs(layer, x, images), wanted, by);
  }
}

TEST_CASE("more images than fit at a time give what each alone gives") {
  using B = moxie::CpuBackend<double>;
  B backend;
  const WindowShape s{.height = 40, .width = 40, .channels = 32};
  CHECK((Index{1} << 20) / (s.windows() * s.columns()) == 2);
  const auto scope = moxie::root(backend);
  const moxie::Convolution<B> layer(scope, s, 2);
  scope.parameters->initialize(1);
  const auto x = moxie::test::normals(5 * s.pixels(), 7);
  const auto together = moxie::test::outputs(layer, x, 5);
  std::vector<double> apart;
  for (Index i = 0; i < 5; ++i) {
    const auto first = x.begin() + i * s.pixels();
    const auto y = moxie::test::outputs(layer, {first, first + s.pixels()}, 1);
    apart.insert(apart.end(), y.begin(), y.end());
  }
  CHECK(together == apart);
  check_layer(layer, 5, {.most_inputs = 12, .most_per_entry = 8, .strided = false});
}

TEST_CASE_TEMPLATE("Convolution obeys the Layer laws", B, MOXIE_DOUBLE_BACKENDS) {
  for (const WindowShape& s : shapes)
    check<B>(4, {.most_inputs = 200, .most_per_entry = 40, .strided = false},
             [&](const auto& scope) { return moxie::Convolution<B>(scope, s, 3); });
}

TEST_CASE_TEMPLATE("ResidualBlock obeys the Layer laws", B, MOXIE_DOUBLE_BACKENDS) {
  for (const moxie::PixelNorm norm : {moxie::PixelNorm::layer, moxie::PixelNorm::none})
    for (const Index stride : {1, 2})
      check<B>(4, {.most_inputs = 60, .most_per_entry = 20, .strided = false},
               [&](const auto& scope) {
                 return moxie::ResidualBlock<B, moxie::Gelu>(scope, {.height = 4,
                                                                     .width = 3,
                                                                     .channels = 3,
                                                                     .output = stride == 1 ? 3 : 5,
                                                                     .stride = stride,
                                                                     .norm = norm});
               });
}

TEST_CASE_TEMPLATE("ResidualNetwork obeys the Layer laws", B, MOXIE_DOUBLE_BACKENDS) {
  for (const moxie::PixelNorm norm : {moxie::PixelNorm::layer, moxie::PixelNorm::none})
    check<B>(4, {.step = 1e-6, .most_inputs = 60, .most_per_entry = 12}, [&](const auto& scope) {
      return moxie::ResidualNetwork<B, moxie::Gelu>(scope, {.image_height = 6,
                                                            .image_width = 5,
                                                            .channels = 2,
                                                            .widths = {3, 4, 5},
                                                            .blocks = 2,
                                                            .classes = 3,
                                                            .norm = norm});
    });
}

TEST_CASE("a residual network without norms starts as its shortcuts") {
  using B = moxie::CpuBackend<double>;
  B backend;
  const auto scope = moxie::root(backend);
  const moxie::ResidualBlock<B> block(
      scope, {.height = 3, .width = 3, .channels = 2, .output = 2, .norm = moxie::PixelNorm::none});
  scope.parameters->initialize(1);
  const auto x = moxie::test::normals(2 * 18, 3);
  CHECK(moxie::test::outputs(block, x, 2) == x);
}

TEST_CASE("convolutions and residual networks refuse sizes that make no sense") {
  using B = moxie::CpuBackend<double>;
  B backend;
  const auto message = [&](const WindowShape& s) {
    return message_of<moxie::config_error>(
        [&] { moxie::Convolution<B>(moxie::root(backend), s, 3); });
  };
  CHECK(message({.height = 0, .width = 4, .channels = 1}) ==
        "moxie::Convolution: height is 0, expected >= 1");
  CHECK(message({.height = 4, .width = 4, .channels = 1, .size = 3, .padding = 3}) ==
        "moxie::Convolution: padding is 3, expected 0 to 2 (size less one)");
  CHECK(message({.height = 4, .width = 2, .channels = 1, .size = 5, .padding = 1}) ==
        "moxie::Convolution: size is 5, expected at most that of the padded image, 6 x 4");
  CHECK(message_of<moxie::config_error>([&] {
          moxie::ResidualNetwork<B>(backend, {.widths = {}});
        }) == "moxie::ResidualNetwork: widths is empty, expected one number a stage");
}
