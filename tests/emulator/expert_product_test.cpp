#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "device/reference.hpp"
#include "emulator/emulated.hpp"
#include "emulator/tf32_leaf.hpp"
#include "moxie/ops/activation.hpp"
#include "moxie/ops/expert_product.hpp"
#include "support/buffer.hpp"
#include "support/errors.hpp"
#include "support/parameters.hpp"

/// ExpertProduct and its twins on the device backend: ends, choice of kernels, refusals. What the
/// kernels compute is tested by itself (grouped_product_test.cpp).
namespace moxie::test {
namespace {

constexpr double unwritten = 77;

template <class B>
constexpr double tolerance = std::is_same_v<B, Tf32Backend> ? 4e-3 : rounding<typename B::Scalar>;

/// Three experts of 3, 0 and 6 rows between rows that belong to nobody, inputs gathered from 5
/// tokens, and the operands of a product [9, in] x [in, out] with every end.
template <class B>
class Layer {
 public:
  using T = typename B::Scalar;
  static constexpr Index experts = 3, capacity = 12, tokens = 5, in = 13, out = 10;

  Layer()
      : parameters_(backend_),
        offset_(backend_, {2, 5, 5, 11}),
        index_(backend_, {1 << 30, -1, 4, 0, 1, 2, 3, 4, 0, 2, 1, 1 << 30}),
        x_values_(numbers<T>(tokens * in, 1)),
        scale_values_(numbers<T>(capacity, 2)),
        x_(backend_, x_values_),
        scale_(backend_, scale_values_),
        pre_(backend_, numbers<T>(capacity * out, 5)),
        result_(backend_, capacity * out, T(unwritten)),
        other_(backend_, capacity * out, T(unwritten)) {
    ParameterEntry plain;
    plain.name = "plain";
    plain.shape = {experts, in, out};
    plain.expert_axis = true;
    ParameterEntry turned = plain;
    turned.name = "turned";
    turned.shape = {experts, out, in};
    ParameterEntry bias = plain;
    bias.name = "bias";
    bias.shape = {experts, out};
    weights_[0].id = parameters_.add(plain);
    weights_[1].id = parameters_.add(turned);
    bias_ = parameters_.add(bias);
    parameters_.initialize(1);
    set_parameter(parameters_, "plain", in_double(numbers<T>(experts * in * out, 3)));
    set_parameter(parameters_, "turned", in_double(numbers<T>(experts * in * out, 3)));
    set_parameter(parameters_, "bias", in_double(numbers<T>(experts * out, 4)));
  }

  B& backend() { return backend_; }
  Rows<B> rows() const {
    return {x_.view(tokens, in), index_.view(), scale_.view(), offset_.view(), capacity};
  }
  ConstMatrix<B> bias() const { return parameters_.value(bias_); }
  Matrix<B> pre() const { return pre_.view(capacity, out); }
  Matrix<B> result() const { return result_.view(capacity, out); }
  Matrix<B> other() const { return other_.view(capacity, out); }
  std::vector<T> results() const { return result_.to_vector(); }
  std::vector<T> others() const { return other_.to_vector(); }

  template <class End>
  void run(Op op, Matrix<B> to, const End& end) {
    expert_product(backend_, parameters_, weights_[op == Op::none ? 0 : 1], ExpertMemory<B>{},
                   rows(), op, to, end);
  }

  /// f(sum of the row, its bias, its element of pre) where there are rows.
  template <class F>
  std::vector<double> expected(Op op, const F& f) {
    const std::vector<std::int32_t> offset = offset_.to_vector();
    const std::vector<std::int32_t> index = index_.to_vector();
    const std::vector<T> w = numbers<T>(experts * in * out, 3);
    const std::vector<T> b = numbers<T>(experts * out, 4);
    const std::vector<T> pre = numbers<T>(capacity * out, 5);
    std::vector<double> all(capacity * out, unwritten);
    for (Index e = 0; e < experts; ++e) {
      for (Index r = offset[std::size_t(e)]; r < offset[std::size_t(e) + 1]; ++r) {
        for (Index c = 0; c < out; ++c) {
          double sum = 0;
          for (Index k = 0; k < in; ++k) {
            const Index at = op == Op::none ? (e * in + k) * out + c : (e * out + c) * in + k;
            sum += double(scale_values_[std::size_t(r)]) *
                   double(x_values_[std::size_t(index[std::size_t(r)] * in + k)]) *
                   double(w[std::size_t(at)]);
          }
          const auto at = static_cast<std::size_t>(r * out + c);
          all[at] = f(sum, double(b[std::size_t(e * out + c)]), double(pre[at]));
        }
      }
    }
    return all;
  }

 private:
  B backend_;
  Parameters<B> parameters_;
  ExpertWeights<B> weights_[2];
  typename Parameters<B>::Id bias_{};
  Buffer<std::int32_t, B> offset_, index_;
  std::vector<T> x_values_, scale_values_;
  Buffer<T, B> x_, scale_, pre_, result_, other_;
};

#define PRODUCT_BACKENDS EmulatedBackend<float>, EmulatedBackend<double>, Tf32Backend

TEST_CASE_TEMPLATE("ExpertProduct on a device: plain and with bias, one kernel each", B,
                   PRODUCT_BACKENDS) {
  for (const Op op : {Op::none, Op::transpose}) {
    Layer<B> layer;
    layer.run(op, layer.result(), NoEnd{});
    layer.run(op, layer.other(), BiasEnd<B>{layer.bias(), layer.other()});
    CHECK(layer.backend().leaf().launches() == 2);
    const auto sum = layer.expected(op, [](double s, double, double) { return s; });
    const auto biased = layer.expected(op, [](double s, double b, double) { return s + b; });
    CHECK(largest_error(layer.results(), sum) <= tolerance<B>);
    CHECK(largest_error(layer.others(), biased) <= tolerance<B>);
    const bool tf32 = std::is_same_v<B, Tf32Backend>;
    CHECK((largest_error(layer.results(), sum) > 1e-5) == tf32);  // tf32 if asked, and only then
  }
}

TEST_CASE_TEMPLATE("ExpertProduct on a device: bias and activation, with and without pre", B,
                   PRODUCT_BACKENDS) {
  for (const Op op : {Op::none, Op::transpose}) {
    Layer<B> layer;
    const auto pre = layer.expected(op, [](double s, double b, double) { return s + b; });
    const auto act =
        layer.expected(op, [](double s, double b, double) { return Gelu::value(s + b); });
    layer.run(op, layer.result(),
              BiasActivationEnd<B, Gelu>{layer.bias(), layer.result(), layer.other(), true});
    CHECK(largest_error(layer.results(), pre) <= tolerance<B>);
    CHECK(largest_error(layer.others(), act) <= tolerance<B>);
    if (op == Op::none) CHECK(layer.backend().leaf().launches() == 1);

    Layer<B> in_place;
    in_place.run(
        op, in_place.result(),
        BiasActivationEnd<B, Gelu>{in_place.bias(), in_place.result(), in_place.result(), false});
    CHECK(largest_error(in_place.results(), act) <= tolerance<B>);
  }
}

TEST_CASE_TEMPLATE("ExpertProduct on a device: times the derivative of the activation", B,
                   PRODUCT_BACKENDS) {
  for (const Op op : {Op::none, Op::transpose}) {
    Layer<B> layer;
    layer.run(op, layer.result(), ActivationBackwardEnd<B, Silu>{layer.pre(), layer.result()});
    const auto d =
        layer.expected(op, [](double s, double, double pre) { return s * Silu::derivative(pre); });
    CHECK(largest_error(layer.results(), d) <= tolerance<B>);
    if (op == Op::transpose) CHECK(layer.backend().leaf().launches() == 1);
  }
}

TEST_CASE_TEMPLATE("ExpertProduct on a device: an end of the user's own follows the product", B,
                   EmulatedBackend<double>) {
  struct Doubled {
    void whole(B& b, ConstIntVector<B>, Matrix<B> out) const { add_bias(b, ones, {}, out); }
    ConstMatrix<B> ones;
  };
  Layer<B> layer;
  const Buffer<double, B> ones(layer.backend(), Layer<B>::out, 1.0);
  layer.run(Op::none, layer.result(), Doubled{ones.view(1, Layer<B>::out)});
  auto expected = layer.expected(Op::none, [](double s, double, double) { return s + 1; });
  for (double& v : expected) v = v == unwritten ? unwritten + 1 : v;
  CHECK(largest_error(layer.results(), expected) <= tolerance<B>);
}

TEST_CASE_TEMPLATE("ExpertWeightsProduct on a device adds the rows of each expert", B,
                   PRODUCT_BACKENDS) {
  using T = typename B::Scalar;
  Layer<B> layer;
  B& b = layer.backend();
  const Index experts = Layer<B>::experts, in = Layer<B>::in, out = Layer<B>::out;
  const std::vector<T> before = numbers<T>(experts * in * out, 8);
  const Buffer<T, B> dw(b, before);
  const Rows<B> dy{layer.pre(), {}, {}, layer.rows().offset, Layer<B>::capacity};
  expert_weights_product(b, ExpertMemory<B>{}, layer.rows(), dy, dw.view(experts * in, out));
  CHECK(b.leaf().launches() == 1);

  // The same through the generic form, in double.
  ThrustHostBackend<double> host;
  const auto doubles = [&](const auto& values) {
    return Buffer<double, ThrustHostBackend<double>>(host, in_double(values));
  };
  const auto x = doubles(numbers<T>(Layer<B>::tokens * in, 1));
  const auto scale = doubles(numbers<T>(Layer<B>::capacity, 2));
  const auto pre = doubles(numbers<T>(Layer<B>::capacity * out, 5));
  const auto expected = doubles(before);
  const Rows<ThrustHostBackend<double>> host_rows{x.view(Layer<B>::tokens, in), layer.rows().index,
                                                  scale.view(), layer.rows().offset,
                                                  Layer<B>::capacity};
  host.grouped_gemm_weights(host_rows,
                            {pre.view(Layer<B>::capacity, out), {}, {}, layer.rows().offset, 12},
                            expected.view(experts * in, out));
  CHECK(largest_error(dw.to_vector(), expected.to_vector()) <= tolerance<B>);
}

TEST_CASE_TEMPLATE("DeviceBackend's grouped products run as kernels where the leaf launches them",
                   B, EmulatedBackend<float>) {
  Layer<B> layer;
  B& b = layer.backend();
  const auto w = numbers<float>(Layer<B>::experts * Layer<B>::in * Layer<B>::out, 3);
  const Buffer<float, B> weights(b, w);
  const Buffer<float, B> dw(b, Index(w.size()), 0.0F);
  const Index height = Layer<B>::experts * Layer<B>::in;
  b.grouped_gemm(layer.rows(), Op::none, weights.view(height, Layer<B>::out), layer.result());
  const auto sum = layer.expected(Op::none, [](double s, double, double) { return s; });
  CHECK(largest_error(layer.results(), sum) <= tolerance<B>);
  const Rows<B> dy{layer.pre(), {}, {}, layer.rows().offset, Layer<B>::capacity};
  b.grouped_gemm_weights(layer.rows(), dy, dw.view(height, Layer<B>::out));
  CHECK(b.leaf().launches() == 2);
}

TEST_CASE_TEMPLATE("ExpertProduct on a device: a strided product of as many rows each", B,
                   EmulatedBackend<float>, Tf32Backend) {
  constexpr Index experts = 3, each = 4, in = 7, out = 5, n = experts * each;
  B b;
  Parameters<B> parameters(b);
  ParameterEntry entry;
  entry.name = "w";
  entry.shape = {experts, in, out};
  entry.expert_axis = true;
  ExpertWeights<B> w;
  w.id = parameters.add(entry);
  parameters.initialize(1);
  const Buffer<float, B> x(b, numbers<float>(n * (in + 2), 1));
  const Buffer<float, B> dy(b, numbers<float>(n * (out + 1), 2));
  const Buffer<float, B> bias(b, numbers<float>(experts * out, 3));
  const Buffer<std::int32_t, B> offset(b, {0, 4, 8, 12});
  Rows<B> rows{x.view(n, in, in + 2), {}, {}, offset.view(), n};
  Rows<B> dy_rows{dy.view(n, out, out + 1), {}, {}, offset.view(), n};

  std::vector<float> act[2], dx[2], dw[2];
  for (const int even : {0, 1}) {
    rows.each = dy_rows.each = even * each;
    const Buffer<float, B> pre_buffer(b, n * out, 0.0F), act_buffer(b, n * out, 0.0F);
    const Buffer<float, B> dx_buffer(b, n * in, 0.0F), dw_buffer(b, experts * in * out, 0.5F);
    const std::uint64_t launches = b.leaf().launches();
    expert_product(b, parameters, w, ExpertMemory<B>{}, rows, Op::none, pre_buffer.view(n, out),
                   BiasActivationEnd<B, Relu>{bias.view(experts, out), pre_buffer.view(n, out),
                                              act_buffer.view(n, out), true});
    expert_product(b, parameters, w, ExpertMemory<B>{}, dy_rows, Op::transpose,
                   dx_buffer.view(n, in), NoEnd{});
    expert_weights_product(b, ExpertMemory<B>{}, rows, dy_rows, dw_buffer.view(experts * in, out));
    if (even == 0) CHECK(b.leaf().launches() == launches + 3);
    act[even] = act_buffer.to_vector();
    dx[even] = dx_buffer.to_vector();
    dw[even] = dw_buffer.to_vector();
  }
  CHECK(largest_error(act[1], in_double(act[0])) <= tolerance<B>);
  CHECK(largest_error(dx[1], in_double(dx[0])) <= tolerance<B>);
  CHECK(largest_error(dw[1], in_double(dw[0])) <= tolerance<B>);

  rows.each = 5;
  CHECK(message_of<shape_error>([&] {
          b.grouped_gemm(rows, Op::none, parameters.value(w.id), Matrix<B>(nullptr, n, out));
        }) ==
        "moxie::DeviceBackend::grouped_gemm: 5 rows of each of 3 experts, expected at most 12 "
        "together (rows.rows)");
}

TEST_CASE_TEMPLATE("ExpertProduct on a device: refusals name the shapes", B,
                   EmulatedBackend<float>) {
  Layer<B> layer;
  CHECK(message_of<shape_error>(
            [&] { layer.run(Op::none, layer.result().columns(0, 4), NoEnd{}); }) ==
        "moxie::DeviceBackend::grouped_gemm: rows are 13 wide, out 4, and w is [39 x 10] for 3 "
        "experts, op none");
  CHECK(message_of<shape_error>([&] { layer.run(Op::none, layer.result().top(3), NoEnd{}); }) ==
        "moxie::DeviceBackend::grouped_gemm: out has 3 rows, expected at least 12 (rows.rows)");
  const Buffer<float, B> dw(layer.backend(), 39 * 9, 0.0F);
  const Rows<B> dy{layer.pre(), {}, {}, layer.rows().offset, Layer<B>::capacity};
  CHECK(message_of<shape_error>([&] {
          expert_weights_product(layer.backend(), ExpertMemory<B>{}, layer.rows(), dy,
                                 dw.view(39, 9));
        }) ==
        "moxie::DeviceBackend::grouped_gemm_weights: rows are 13 wide for 3 experts, dy 10 wide "
        "for 3, and dw is [39 x 9]");
}

}  // namespace
}  // namespace moxie::test
