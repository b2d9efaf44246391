// The attention kernels against the generic form in double, and against differences.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "moxie/core/arena.hpp"
#include "moxie/core/memory.hpp"
#include "moxie/ops/attention.hpp"
#include "nn_matrix.hpp"

namespace nn_attention_test {

using namespace moxie;
using moxie::test::emulated;
using moxie::test::EmulatedBackend;
using moxie::test::In;
using moxie::test::NnMatrix;
using moxie::test::Out;

namespace {

// A changed signature must not fall back to the generic form in silence.
template <class T, class B = EmulatedBackend<T>>
constexpr bool twins =
    Accelerates<Attention, B, AttentionShape, In<T>, In<T>, In<T>, AttentionMemory<B>, Out<T>>&&
        Accelerates<AttentionBackward, B, AttentionShape, In<T>, In<T>, In<T>, In<T>,
                    AttentionMemory<B>, Out<T>, Out<T>, Out<T>>;
static_assert(twins<float> && twins<double>);

/// Attention of one shape with its operands: q with gaps between its rows, k and v side by side.
template <class T>
struct Fixture {
  using B = EmulatedBackend<T>;
  AttentionShape shape;
  B backend;
  Index columns = shape.heads * shape.width;
  NnMatrix<T> q, kv, d_o, o, dq, dkv;
  AttentionMemory<B> memory;
  Memory<B> bytes;

  Fixture(const AttentionShape& s, std::uint64_t schedule, bool generic = false,
          Gradients gradients = Gradients::all)
      : shape(s),
        backend(emulated<T>(schedule)),
        q(s.images * s.queries, columns, 3, 1),
        kv(s.images * s.keys, 2 * columns, 1, 2),
        d_o(s.images * s.queries, columns, 2, 3),
        o(s.images * s.queries, columns, 1, 4),
        dq(s.images * s.queries, columns, 5, 5),
        dkv(s.images * s.keys, 2 * columns, 2, 6) {
    const auto bind = [&](Arena<B>& arena) {
      if (generic) {
        Attention::generic_bind(arena, shape, memory);
      } else {
        attention.bind(backend, arena, shape, memory);
      }
    };
    Arena<B> measure(gradients);
    bind(measure);
    bytes = Memory<B>(backend, measure.peak());
    Arena<B> arena(gradients, bytes.data(), bytes.bytes());
    bind(arena);
  }
  In<T> k() { return kv.read().columns(0, columns); }
  In<T> v() { return kv.read().columns(columns, columns); }
  Out<T> dk() { return dkv.view().columns(0, columns); }
  Out<T> dv() { return dkv.view().columns(columns, columns); }
  void forward() { attention(backend, shape, q.read(), k(), v(), memory, o.view()); }
  void backward() {
    attention_backward(backend, shape, q.read(), k(), v(), d_o.read(), memory, dq.view(), dk(),
                       dv());
  }
  void run_generic() {
    Attention::generic(backend, shape, q.read(), k(), v(), memory, o.view());
    AttentionBackward::generic(backend, shape, q.read(), k(), v(), d_o.read(), memory, dq.view(),
                               dk(), dv());
  }
};

double largest(const std::vector<double>& values) {
  double most = 0;
  for (const double v : values) most = std::fmax(most, std::fabs(v));
  return most;
}

/// Sums of up to `terms` rounded products, of numbers as large as the largest wanted one.
template <class T>
void check_sums(const std::vector<T>& got, const std::vector<double>& wanted, Index terms) {
  const double rounding = static_cast<double>(std::numeric_limits<T>::epsilon());
  const double by = 4 * rounding * std::sqrt(static_cast<double>(terms));
  double worst = 0;
  REQUIRE(got.size() == wanted.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    worst = std::fmax(worst, std::fabs(static_cast<double>(got[i]) - wanted[i]));
  CHECK(worst <= by * std::fmax(1.0, largest(wanted)));
}

// Less, as much and more than a tile of queries, of keys and of columns; one of each; many.
const std::vector<AttentionShape> shapes{
    {.images = 1, .queries = 1, .keys = 1, .heads = 1, .width = 1, .scale = 1},
    {.images = 2, .queries = 3, .keys = 5, .heads = 3, .width = 7, .scale = 0.4},
    {.images = 1, .queries = 32, .keys = 64, .heads = 2, .width = 64, .scale = 0.125},
    {.images = 2, .queries = 50, .keys = 50, .heads = 2, .width = 24, .scale = 0.2},
    {.images = 1, .queries = 33, .keys = 65, .heads = 1, .width = 33, .scale = 0.2},
    {.images = 2, .queries = 1, .keys = 197, .heads = 2, .width = 16, .scale = 0.25},
    {.images = 1, .queries = 70, .keys = 17, .heads = 1, .width = 65, .scale = 0.1},
    {.images = 1, .queries = 20, .keys = 40, .heads = 2, .width = 128, .scale = 0.09},
};

}  // namespace

TEST_CASE_TEMPLATE("nn kernels: attention and its gradients equal the generic form in double", T,
                   float, double) {
  for (const AttentionShape& s : shapes) {
    CAPTURE(s.queries);
    CAPTURE(s.keys);
    CAPTURE(s.width);
    Fixture<double> expected(s, 0, true);
    expected.run_generic();
    for (const std::uint64_t schedule : {1U, 2U}) {
      Fixture<T> fused(s, schedule);
      fused.forward();
      CHECK(fused.backend.leaf().launches() == 1);
      check_sums(fused.o.dense(), expected.o.doubles(), s.keys + s.width);
      fused.backward();
      CHECK(fused.backend.leaf().launches() == 3);
      const Index terms = s.keys + s.queries + s.width;
      check_sums(fused.dq.dense(), expected.dq.doubles(), terms);
      check_sums(fused.dkv.dense(), expected.dkv.doubles(), terms);
      CHECK(fused.o.gaps_kept());
      CHECK(fused.dq.gaps_kept());
      CHECK(fused.dkv.gaps_kept());
    }
  }
}

TEST_CASE("nn kernels: gradients of attention equal central differences") {
  const AttentionShape s{
      .images = 1, .queries = 4, .keys = 6, .heads = 2, .width = 3, .scale = 0.7};
  Fixture<double> at(s, 1);
  at.forward();
  at.backward();
  const auto loss = [&] {  // <o, d_o>
    Fixture<double> there(s, 2);
    there.q = at.q;
    there.kv = at.kv;
    there.forward();
    const std::vector<double> o = there.o.dense(), d_o = at.d_o.dense();
    double sum = 0;
    for (std::size_t i = 0; i < o.size(); ++i) sum += o[i] * d_o[i];
    return sum;
  };
  const auto check = [&](NnMatrix<double>& x, NnMatrix<double>& dx) {
    for (Index r = 0; r < x.view().rows; ++r)
      for (Index c = 0; c < x.view().cols; c += 2) {
        constexpr double step = 1e-5;
        const double value = x(r, c);
        x(r, c) = value + step;
        const double above = loss();
        x(r, c) = value - step;
        const double below = loss();
        x(r, c) = value;
        CHECK(dx(r, c) == doctest::Approx((above - below) / (2 * step)).epsilon(1e-7).scale(1));
      }
  };
  check(at.q, at.dq);
  check(at.kv, at.dkv);
}

TEST_CASE("nn kernels: attention has the same bits in any schedule and any batch") {
  const AttentionShape s{
      .images = 2, .queries = 40, .keys = 70, .heads = 2, .width = 20, .scale = 0.2};
  Fixture<float> one(s, 1), other(s, 99);
  for (Fixture<float>* f : {&one, &other}) {
    f->forward();
    f->backward();
  }
  CHECK(one.o.dense() == other.o.dense());
  CHECK(one.dq.dense() == other.dq.dense());
  CHECK(one.dkv.dense() == other.dkv.dense());
  AttentionShape first = s;
  first.images = 1;  // the same memory serves a smaller pass
  other.shape = first;
  other.o = NnMatrix<float>(80, 40, 1, 9);
  other.dkv = NnMatrix<float>(140, 80, 2, 9);
  const auto rows = [](NnMatrix<float>& m, Index n) {
    std::vector<float> out;
    for (Index r = 0; r < n; ++r)
      for (Index c = 0; c < m.view().cols; ++c) out.push_back(m(r, c));
    return out;
  };
  attention(other.backend, first, other.q.read().top(40), other.k().top(70), other.v().top(70),
            other.memory, other.o.view().top(40));
  attention_backward(other.backend, first, other.q.read().top(40), other.k().top(70),
                     other.v().top(70), other.d_o.read().top(40), other.memory,
                     other.dq.view().top(40), other.dk().top(70), other.dv().top(70));
  CHECK(rows(other.o, 40) == rows(one.o, 40));
  CHECK(rows(other.dq, 40) == rows(one.dq, 40));
  CHECK(rows(other.dkv, 70) == rows(one.dkv, 70));
}

TEST_CASE(
    "nn kernels: attention over large scores neither overflows nor loses a peak that comes late") {
  AttentionShape s{.images = 1, .queries = 2, .keys = 150, .heads = 1, .width = 2, .scale = 1};
  Fixture<float> f(s, 1);
  for (Index i = 0; i < 2; ++i)
    for (Index c = 0; c < 2; ++c) f.q(i, c) = i == 0 ? 100.0F : -100.0F;
  for (Index j = 0; j < 150; ++j)
    for (Index c = 0; c < 4; ++c)
      f.kv(j, c) = c < 2 ? static_cast<float>(j) : static_cast<float>(j * c);
  f.forward();  // scores 200 j and -200 j: the last key wins, and the first one
  CHECK(f.o(0, 0) == doctest::Approx(149 * 2));
  CHECK(f.o(0, 1) == doctest::Approx(149 * 3));
  CHECK(std::fabs(f.o(1, 0)) < 1e-20F);
  f.kv(3, 0) = std::numeric_limits<float>::quiet_NaN();
  f.forward();
  CHECK(f.o(0, 0) != f.o(0, 0));
}

TEST_CASE(
    "nn kernels: attention keeps no matrix of weights, and wide heads take the generic form") {
  const AttentionShape s{
      .images = 2, .queries = 60, .keys = 60, .heads = 2, .width = 16, .scale = 0.25};
  const std::size_t weights = 2 * 2 * 60 * 60 * sizeof(float);
  CHECK(Fixture<float>(s, 0, true).bytes.bytes() >= 2 * weights);
  CHECK(Fixture<float>(s, 0).bytes.bytes() < weights);
  CHECK(Fixture<float>(s, 0, false, Gradients::none).bytes.bytes() == 0);
  Fixture<float> evaluating(s, 1, false, Gradients::none), training(s, 2);
  evaluating.forward();
  training.forward();
  CHECK(evaluating.o.dense() == training.o.dense());

  const AttentionShape wide{
      .images = 1, .queries = 3, .keys = 4, .heads = 1, .width = 129, .scale = 0.1};
  Fixture<float> f(wide, 1), generic(wide, 1, true);
  f.forward();
  f.backward();
  generic.run_generic();
  CHECK(f.backend.leaf().launches() == 2);  // of softmax
  CHECK(f.o.dense() == generic.o.dense());
  CHECK(f.dkv.dense() == generic.dkv.dense());
}

}  // namespace nn_attention_test
