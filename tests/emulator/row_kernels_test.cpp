// combine_rows, its backward, gather_rows and copy_padded_rows in 16-byte accesses and without.
#include <algorithm>
#include <vector>

#include "emulator/routing_backends.hpp"
#include "moxie/ops/gather_rows.hpp"
#include "moxie/ops/padded_rows.hpp"
#include "moxie/ops/routed_rows.hpp"

namespace row_kernels_test {

using namespace moxie;
using testing::detail::Draw;
using Ints = std::vector<std::int32_t>;

namespace {

template <class B>
constexpr bool twins = Accelerates<CombineRows, B, RowLists<B>, ConstMatrix<B>, Matrix<B>>&&
    Accelerates<CombineRowsBackward, B, RowLists<B>, ConstMatrix<B>, ConstMatrix<B>,
                typename B::Scalar*>&& Accelerates<GatherRows, B, Rows<B>, Matrix<B>>&&
        Accelerates<CopyPaddedRows, B, PaddedRows<B>, ConstMatrix<B>, Matrix<B>>;
static_assert(twins<test::EmulatedBackend<float>> && twins<test::EmulatedBackend<double>>);
static_assert(!twins<ThrustHostBackend<float>>);

/// Lists of tokens and rows of `width`. Rows begin `shift` elements behind an aligned address and
/// lie `gap` elements further apart than they are long.
struct Case {
  Index tokens, rows, width, shift = 0, gap = 0;
  Index choices = 2;  // 0: ragged
  bool weighted = true;
};
struct Lists {
  Ints first, row;
  std::vector<double> weight;
};
Lists draw_lists(Draw& draw, const Case& c) {
  Lists out;
  for (Index t = 0; t < c.tokens; ++t) {
    out.first.push_back(static_cast<std::int32_t>(out.row.size()));
    const Index n = c.choices > 0 ? c.choices : draw.from(0, 4);
    for (Index i = 0; i < n; ++i) {
      out.row.push_back(static_cast<std::int32_t>(draw.from(-1, c.rows - 1)));
      out.weight.push_back(draw.normal());
    }
  }
  out.first.push_back(static_cast<std::int32_t>(out.row.size()));
  return out;
}

/// A matrix of normals as a case wants its rows.
template <class B>
class Placed {
 public:
  using T = typename B::Scalar;
  Placed(B& backend, const Case& c, Index rows, std::vector<double> values)
      : rows_(rows),
        width_(c.width),
        shift_(c.shift),
        stride_(c.width + c.gap),
        memory_(backend, fill(values)) {}
  Matrix<B> view() const { return {memory_.data() + shift_, rows_, width_, stride_}; }
  /// All of the memory: what lies between rows too.
  std::vector<T> to_vector() const { return memory_.to_vector(); }

 private:
  std::vector<T> fill(const std::vector<double>& values) const {
    std::vector<T> out(static_cast<std::size_t>(shift_ + rows_ * stride_), T(-77));
    for (Index r = 0; r < rows_ && !values.empty(); ++r)
      for (Index j = 0; j < width_; ++j)
        out[static_cast<std::size_t>(shift_ + r * stride_ + j)] =
            static_cast<T>(values[static_cast<std::size_t>(r * width_ + j)]);
    return out;
  }

  Index rows_, width_, shift_, stride_;
  test::Buffer<T, B> memory_;
};

template <class T>
struct Results {
  std::vector<T> y, d_weight;
};
template <class B>
Results<typename B::Scalar> combine(B& backend, const Case& c) {
  using T = typename B::Scalar;
  Draw draw(21);
  const Lists l = draw_lists(draw, c);
  const Placed<B> rows(backend, c, c.rows, draw.normals(c.rows * c.width));
  const Placed<B> dy(backend, c, c.tokens, draw.normals(c.tokens * c.width));
  const Placed<B> y(backend, c, c.tokens, {});
  const test::Buffer<std::int32_t, B> first(backend, l.first);
  const test::Buffer<std::int32_t, B> row(backend, l.row);
  const test::Buffer<T, B> weight(backend, test::scalars<T>(l.weight));
  const test::Buffer<T, B> d_weight(backend, weight.size(), T(-7));
  const RowLists<B> lists{c.choices > 0 ? ConstIntVector<B>() : ConstIntVector<B>(first.view()),
                          c.choices, row.data(), c.weighted ? weight.data() : nullptr};
  combine_rows(backend, lists, ConstMatrix<B>(rows.view()), y.view());
  combine_rows_backward(backend, lists, ConstMatrix<B>(rows.view()), ConstMatrix<B>(dy.view()),
                        d_weight.data());
  return {y.to_vector(), d_weight.to_vector()};
}

template <class T>
void check_near(const std::vector<T>& got, const std::vector<T>& wanted) {
  test::check_near(got, std::vector<double>(wanted.begin(), wanted.end()));
}
template <class T>
void check_combine(const Case& c) {
  CAPTURE(c.width);
  CAPTURE(c.shift);
  CAPTURE(c.gap);
  CAPTURE(c.choices);
  ThrustHostBackend<T> host;
  const auto wanted = combine(host, c);
  for (const std::uint64_t schedule : test::schedules) {
    auto backend = test::emulated<T>(schedule);
    const auto got = combine(backend, c);
    check_near(got.y, wanted.y);
    check_near(got.d_weight, wanted.d_weight);
    CHECK(backend.leaf().launches() == 2);
  }
}

template <class B>
std::vector<typename B::Scalar> gather(B& backend, const Case& c, bool scaled) {
  using T = typename B::Scalar;
  Draw draw(22);
  const Placed<B> x(backend, c, c.tokens, draw.normals(c.tokens * c.width));
  const Placed<B> out(backend, c, c.rows, {});
  Ints source;
  for (Index r = 0; r < c.rows; ++r)
    source.push_back(static_cast<std::int32_t>(draw.from(0, c.tokens - 1)));
  const auto last = static_cast<std::int32_t>(c.rows - 2);
  source.front() = source.back() = 1 << 30;  // the first row and the last two belong to nobody
  const test::Buffer<std::int32_t, B> index(backend, source);
  const test::Buffer<T, B> scale(backend, test::scalars<T>(draw.normals(c.rows)));
  const test::Buffer<std::int32_t, B> offset(backend, Ints{1, 2, 2, last});
  gather_rows(
      backend,
      Rows<B>{x.view(), index.view(), scaled ? ConstVector<B>(scale.view()) : ConstVector<B>(),
              offset.view(), c.rows},
      out.view());
  return out.to_vector();
}

/// Three experts of `each` places, of which 2, none and all are taken, in an order of their own.
template <class B>
std::vector<typename B::Scalar> copy_padded(B& backend, const Case& c, Index each, bool weighted) {
  using T = typename B::Scalar;
  Draw draw(23);
  const auto taken = static_cast<std::int32_t>(each + 2);
  const Placed<B> from(backend, c, c.tokens, draw.normals(c.tokens * c.width));
  const Placed<B> to(backend, c, 3 * each, {});
  Ints token, assignment;
  for (Index r = 0; r < taken; ++r) {
    token.push_back(static_cast<std::int32_t>(draw.from(0, c.tokens - 1)));
    assignment.push_back(static_cast<std::int32_t>((r * 3 + 1) % taken));
  }
  const test::Buffer<std::int32_t, B> offset(backend, Ints{0, 2, 2, taken});
  const test::Buffer<std::int32_t, B> tokens(backend, token);
  const test::Buffer<std::int32_t, B> assignments(backend, assignment);
  const test::Buffer<T, B> weight(backend, test::scalars<T>(draw.normals(taken)));
  copy_padded_rows(backend,
                   PaddedRows<B>{offset.view(), each, tokens.view(), assignments.view(),
                                 weighted ? weight.data() : nullptr},
                   ConstMatrix<B>(from.view()), to.view());
  return to.to_vector();
}

}  // namespace

TEST_CASE_TEMPLATE(
    "row kernels: combine and its backward equal the generic form for any width and alignment", T,
    float, double) {
  for (const Index width : {1, 3, 4, 30, 64, 132, 519, 1100}) {
    check_combine<T>({.tokens = 11, .rows = 9, .width = width});
    check_combine<T>({.tokens = 5, .rows = 9, .width = width, .shift = 1});
  }
  check_combine<T>({.tokens = 6, .rows = 9, .width = 48, .gap = 1});
  check_combine<T>({.tokens = 6, .rows = 9, .width = 48, .gap = 16});
}

TEST_CASE_TEMPLATE(
    "row kernels: combine takes ragged lists, lists without weights and tokens without rows", T,
    float, double) {
  check_combine<T>({.tokens = 40, .rows = 6, .width = 36, .choices = 0});
  check_combine<T>({.tokens = 20, .rows = 6, .width = 8, .choices = 3, .weighted = false});
  check_combine<T>({.tokens = 20, .rows = 0, .width = 8, .choices = 1});  // all are dropped
}

TEST_CASE_TEMPLATE("row kernels: results do not depend on how rows are aligned", T, float, double) {
  auto backend = test::emulated<T>(4);
  const Case aligned{.tokens = 7, .rows = 9, .width = 520};
  Case shifted = aligned;
  shifted.shift = 1;
  const auto a = combine(backend, aligned);
  const auto b = combine(backend, shifted);
  CHECK(a.d_weight == b.d_weight);
  CHECK(a.y == std::vector<T>(b.y.begin() + 1, b.y.end()));
}

TEST_CASE_TEMPLATE("row kernels: gather copies and scales rows of experts, and leaves all others",
                   T, float, double) {
  for (const Case& c : {Case{.tokens = 5, .rows = 21, .width = 64},
                        Case{.tokens = 5, .rows = 10, .width = 64, .shift = 1},
                        Case{.tokens = 5, .rows = 10, .width = 17},
                        Case{.tokens = 3, .rows = 4, .width = 1100, .gap = 4}}) {
    CAPTURE(c.width);
    for (const bool scaled : {false, true}) {
      ThrustHostBackend<T> host;
      const auto wanted = gather(host, c, scaled);
      for (const std::uint64_t schedule : test::schedules) {
        auto backend = test::emulated<T>(schedule);
        CHECK(gather(backend, c, scaled) == wanted);  // one product each: equal to the bit
        CHECK(backend.leaf().launches() == 1);
      }
    }
  }
}

TEST_CASE_TEMPLATE("row kernels: padded rows are copied and scaled, and zero where nobody came", T,
                   float, double) {
  for (const Case& c : {Case{.tokens = 5, .rows = 0, .width = 64},
                        Case{.tokens = 5, .rows = 0, .width = 64, .shift = 1},
                        Case{.tokens = 5, .rows = 0, .width = 17},
                        Case{.tokens = 3, .rows = 0, .width = 1100, .gap = 4}}) {
    CAPTURE(c.width);
    for (const bool weighted : {false, true}) {
      ThrustHostBackend<T> host;
      const auto wanted = copy_padded(host, c, 5, weighted);
      CHECK(std::count(wanted.begin(), wanted.end(), T(0)) == 8 * c.width);
      for (const std::uint64_t schedule : test::schedules) {
        auto backend = test::emulated<T>(schedule);
        CHECK(copy_padded(backend, c, 5, weighted) == wanted);  // to the bit: one product each
        CHECK(backend.leaf().launches() == 1);
      }
    }
  }
}

}  // namespace row_kernels_test
