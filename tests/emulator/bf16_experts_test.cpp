// Products of experts by factors of bf16: what they compute, when they are taken, and when the copy
// of the weights is made anew.
#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "device/reference.hpp"
#include "emulator/bf16_leaf.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/capacity/factor.hpp"
#include "moxie/dispatch/einsum.hpp"
#include "moxie/dispatch/padded.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/law_report.hpp"
#include "support/parameters.hpp"

namespace moxie::test::bf16_experts_test {
namespace {

using B = Bf16Backend;

double rounded(float v) { return double(static_cast<float>(bf16(v))); }

/// Three experts' weights with memory for their products, and rows for them: 3, 0 and 6 rows between
/// rows that belong to nobody, gathered and scaled, or 4 rows each as they lie.
class Products {
 public:
  static constexpr Index experts = 3, rows_ = 12, tokens = 5;

  /// `gap`: between the rows of inputs and results.
  Products(Index in, Index out, Index gap, bool even)
      : in_(in),
        out_(out),
        gap_(gap),
        even_(even),
        parameters_(b_),
        offset_(b_, even ? std::vector<std::int32_t>{0, 4, 8, 12}
                         : std::vector<std::int32_t>{2, 5, 5, 11}),
        index_(b_, {1 << 30, -1, 4, 0, 1, 2, 3, 4, 0, 2, 1, 1 << 30}),
        x_(numbers<float>(rows_ * (in + gap), 1)),
        dy_(numbers<float>(rows_ * (out + gap), 2)),
        scale_({9, 9, 0.3F, 2, 1, 0.7F, 4.1F, 1, 0.6F, 1.9F, 1, 9}),
        w_(numbers<float>(experts * in * out, 3)),
        x_buffer_(b_, x_),
        dy_buffer_(b_, dy_),
        scale_buffer_(b_, scale_) {
    ParameterEntry entry;
    entry.name = "w";
    entry.shape = {experts, in, out};
    entry.expert_axis = true;
    weights_.id = parameters_.add(entry);
    parameters_.initialize(1);
    set_parameter(parameters_, "w", in_double(w_));
    Arena<B> measure(Gradients::all);
    expert_product.bind(b_, measure, parameters_, weights_, weights_, rows_, memory_);
    memory_buffer_.emplace_back(b_, static_cast<Index>(measure.peak()), std::byte{0x7f});
    Arena<B> arena(Gradients::all, memory_buffer_[0].data(), measure.peak());
    expert_product.bind(b_, arena, parameters_, weights_, weights_, rows_, memory_);
  }

  /// x W + bias, as the kernel ends it.
  void check_product() {
    const std::vector<float> bias = numbers<float>(experts * out_, 5);
    const Buffer<float, B> bias_buffer(b_, bias);
    const Buffer<float, B> y(b_, rows_ * (out_ + gap_), 77.0F);
    const Matrix<B> to = y.view(rows_, out_, out_ + gap_);
    expert_product(b_, parameters_, weights_, memory_, rows(x_buffer_, in_), Op::none, to,
                   BiasEnd<B>{bias_buffer.view(experts, out_), to});
    std::vector<double> wanted(static_cast<std::size_t>(y.size()), 77);
    each_row([&](Index e, Index r, Index source, float scale) {
      for (Index c = 0; c < out_; ++c) {
        double sum = 0;
        for (Index k = 0; k < in_; ++k)
          sum += rounded(x_[at(source, k, in_)]) * rounded(w(e, k, c));
        wanted[at(r, c, out_)] = scale * sum + double(bias[std::size_t(e * out_ + c)]);
      }
    });
    CHECK(largest_error(y.to_vector(), wanted) <= rounding<float>);
  }
  /// dy W^T.
  void check_transpose() {
    const Buffer<float, B> dx(b_, rows_ * (in_ + gap_), 77.0F);
    expert_product(b_, parameters_, weights_, memory_, rows(dy_buffer_, out_), Op::transpose,
                   dx.view(rows_, in_, in_ + gap_), NoEnd{});
    std::vector<double> wanted(static_cast<std::size_t>(dx.size()), 77);
    each_row([&](Index e, Index r, Index source, float scale) {
      for (Index k = 0; k < in_; ++k) {
        double sum = 0;
        for (Index c = 0; c < out_; ++c)
          sum += rounded(dy_[at(source, c, out_)]) * rounded(w(e, k, c));
        wanted[at(r, k, in_)] = scale * sum;
      }
    });
    CHECK(largest_error(dx.to_vector(), wanted) <= rounding<float>);
  }
  /// dW += x^T dy, where the rows of one are gathered and scaled, and rounded only then.
  void check_weights(bool of_dy) {
    const std::vector<float> before = numbers<float>(experts * in_ * out_, 7);
    const Buffer<float, B> dw(b_, before);
    expert_weights_product(b_, memory_, of_dy ? plain(x_buffer_, in_) : rows(x_buffer_, in_),
                           of_dy ? rows(dy_buffer_, out_) : plain(dy_buffer_, out_),
                           dw.view(experts * in_, out_));
    std::vector<double> wanted = in_double(before);
    each_row([&](Index e, Index r, Index source, float scale) {
      for (Index k = 0; k < in_; ++k)
        for (Index c = 0; c < out_; ++c)
          wanted[static_cast<std::size_t>((e * in_ + k) * out_ + c)] +=
              of_dy ? rounded(x_[at(r, k, in_)]) * rounded(scale * dy_[at(source, c, out_)])
                    : rounded(scale * x_[at(source, k, in_)]) * rounded(dy_[at(r, c, out_)]);
    });
    CHECK(largest_error(dw.to_vector(), wanted) <= rounding<float>);
  }
  int strided() { return b_.leaf().strided; }

 private:
  std::size_t at(Index r, Index c, Index width) const {
    return static_cast<std::size_t>(r * (width + gap_) + c);
  }
  float w(Index e, Index k, Index c) const {
    return w_[static_cast<std::size_t>((e * in_ + k) * out_ + c)];
  }
  Rows<B> rows(const Buffer<float, B>& buffer, Index width) const {
    const ConstMatrix<B> x = buffer.view(rows_, width, width + gap_);
    if (even_) return plain(buffer, width);
    return {x.top(tokens), index_.view(), scale_buffer_.view(), offset_.view(), rows_};
  }
  Rows<B> plain(const Buffer<float, B>& buffer, Index width) const {
    const ConstMatrix<B> x = buffer.view(rows_, width, width + gap_);
    return {x, {}, {}, offset_.view(), rows_, even_ ? 4 : 0};
  }
  template <class F>
  void each_row(const F& f) const {
    const std::vector<std::int32_t> offset = offset_.to_vector();
    const std::vector<std::int32_t> index = index_.to_vector();
    for (Index e = 0; e < experts; ++e)
      for (Index r = offset[std::size_t(e)]; r < offset[std::size_t(e) + 1]; ++r)
        f(e, r, even_ ? r : index[std::size_t(r)], even_ ? 1.0F : scale_[std::size_t(r)]);
  }

  Index in_, out_, gap_;
  bool even_;
  B b_;
  Parameters<B> parameters_;
  ExpertWeights<B> weights_;
  ExpertMemory<B> memory_;
  std::vector<Buffer<std::byte, B>> memory_buffer_;
  Buffer<std::int32_t, B> offset_, index_;
  std::vector<float> x_, dy_, scale_, w_;
  Buffer<float, B> x_buffer_, dy_buffer_, scale_buffer_;
};

TEST_CASE("Experts' products of bf16 are those of the rounded factors, summed in float") {
  for (const bool even : {false, true})
    for (const auto& sizes : {std::array<Index, 3>{13, 10, 0}, {24, 40, 8}, {16, 12, 4}}) {
      CAPTURE(even);
      CAPTURE(sizes[0]);
      Products products(sizes[0], sizes[1], sizes[2], even);
      products.check_product();
      products.check_transpose();
      for (const bool of_dy : {false, true}) products.check_weights(of_dy);
      CHECK(products.strided() == (even ? 4 : 0));
    }
}

constexpr Index tokens = 20, width = 11;

template <class Router, class Capacity>
auto make_layer(B& b, const Router& router, const Capacity& capacity) {
  return MoeLayer{b, MoeShape{.width = width, .experts = 4, .seed = 2}, router, capacity,
                  FeedForward<Gelu>{.hidden = 14}};
}
template <class Layer>
class Run {
 public:
  Run(B& b, const Layer& layer, Gradients gradients)
      : b_(b),
        layer_(layer),
        tape_(layer.make_tape(tokens, gradients)),
        x_(b, numbers<float>(tokens * width, 1)),
        dy_(b, numbers<float>(tokens * width, 2)),
        y_(b, tokens * width, 0.0F),
        dx_(b, tokens * width, 0.0F) {}

  std::vector<float> forward() {
    layer_.forward(ConstMatrix<B>(x_.view(tokens, width)), y_.view(tokens, width), tape_,
                   Pass<B>{});
    return y_.to_vector();
  }
  std::vector<float> backward() {
    layer_.parameters().zero_gradients();
    layer_.backward(ConstMatrix<B>(dy_.view(tokens, width)), dx_.view(tokens, width), tape_);
    return dx_.to_vector();
  }
  std::vector<float> gradients() const {
    return testing::detail::to_host(b_, layer_.parameters().gradients());
  }
  std::vector<float> logits() { return testing::detail::to_host(b_, tape_->routing.logits); }
  std::vector<std::int32_t> choice() { return testing::detail::to_host(b_, tape_->routing.choice); }

 private:
  B& b_;
  const Layer& layer_;
  OwnedTape<Layer> tape_;
  Buffer<float, B> x_, dy_, y_, dx_;
};

/// Not the same, but as near as 8 bits of significand are.
void check_rounded(const std::vector<float>& got, const std::vector<float>& exact) {
  const double error = largest_error(got, in_double(exact));
  CHECK(error > 1e-5);
  CHECK(error < 3e-2);
}

TEST_CASE("A layer with experts of bf16 keeps its routes, and comes near the exact one") {
  const auto check = [](const auto& router, const auto& capacity) {
    B exact(Bf16TestLeaf{Bf16Experts::never});
    B narrow(Bf16TestLeaf{Bf16Experts::always});
    const auto exact_layer = make_layer(exact, router, capacity);
    const auto narrow_layer = make_layer(narrow, router, capacity);
    Run wanted(exact, exact_layer, Gradients::all);
    Run got(narrow, narrow_layer, Gradients::all);
    check_rounded(got.forward(), wanted.forward());
    CHECK(got.logits() == wanted.logits());
    CHECK(got.choice() == wanted.choice());
    check_rounded(got.backward(), wanted.backward());
    check_rounded(got.gradients(), wanted.gradients());
    CHECK(testing::detail::to_host(narrow, narrow_layer.parameters().values()) ==
          testing::detail::to_host(exact, exact_layer.parameters().values()));
    CHECK(exact.leaf().strided == 0);
    const bool padded = narrow.leaf().strided > 0;
    CHECK(padded == !std::is_same_v<std::decay_t<decltype(router)>, TopKRouter>);
  };
  check(TopKRouter{.k = 2}, Dropless{});
  check(TopKRouter{.k = 1}, CapacityFactor{.factor = 0.5});  // fewer rows than tokens
  check(WithDispatcher{PaddedDispatcher{}, TopKRouter{.k = 2}}, CapacityFactor{.factor = 1.25});
}

TEST_CASE("Bf16Experts::inference leaves tapes with gradients exact") {
  B exact(Bf16TestLeaf{Bf16Experts::never});
  B narrow(Bf16TestLeaf{Bf16Experts::inference});
  const auto exact_layer = make_layer(exact, TopKRouter{.k = 2}, Dropless{});
  const auto narrow_layer = make_layer(narrow, TopKRouter{.k = 2}, Dropless{});
  for (const Gradients gradients : {Gradients::all, Gradients::input}) {
    Run wanted(exact, exact_layer, gradients);
    Run got(narrow, narrow_layer, gradients);
    CHECK(got.forward() == wanted.forward());
    CHECK(got.backward() == wanted.backward());
  }
  check_rounded(Run(narrow, narrow_layer, Gradients::none).forward(),
                Run(exact, exact_layer, Gradients::none).forward());
}

TEST_CASE("The copy of experts' weights in bf16 is made anew where it may be out of date") {
  B b(Bf16TestLeaf{Bf16Experts::always});
  const auto layer = make_layer(b, TopKRouter{.k = 2}, Dropless{});
  Run evaluation(b, layer, Gradients::none);
  Run training(b, layer, Gradients::all);
  const auto launches_of = [&](const auto& f) {
    const std::uint64_t before = b.leaf().launches();
    f();
    return b.leaf().launches() - before;
  };
  const auto evaluate = [&] { return launches_of([&] { evaluation.forward(); }); };
  const std::uint64_t first = evaluate();
  const std::uint64_t kept = evaluate();
  CHECK(first == kept + 2);  // of two kernels

  const auto before = evaluation.forward();
  b.fill(layer.parameters().edit(), 0.25F);
  CHECK(evaluate() == first);
  CHECK(evaluation.forward() != before);
  CHECK(evaluate() == kept);

  // A graph makes its own copy whenever it runs, and nobody outside counts on when that was.
  b.leaf().capture = true;
  CHECK(evaluate() == first);
  CHECK(evaluate() == first);
  b.leaf().capture = false;
  CHECK(evaluate() == first);
  CHECK(evaluate() == kept);

  // So does each forward of a training pass, whose backward takes the same.
  const auto step = [&] {
    return launches_of([&] { training.forward(); }) * 1000 +
           launches_of([&] { training.backward(); });
  };
  const std::uint64_t one = step();
  CHECK(step() == one);
  b.leaf().capture = true;
  CHECK(step() == one);
}

}  // namespace
}  // namespace moxie::test::bf16_experts_test
