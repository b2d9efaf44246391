// The CPU's twin of attention against the generic form: results, all gradients, memory.
#include <algorithm>
#include <cmath>
#include <vector>

#include "moxie/backend/cpu/eigen_product.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "moxie/layer/tape.hpp"
#include "moxie/ops/attention.hpp"
#include "support/backends.hpp"
#include "support/kernels.hpp"

using namespace moxie;

namespace {

template <class T>
using View = MatrixView<const T>;
template <class T>
using Out = MatrixView<T>;

// A changed signature must not fall back to the generic form in silence.
template <class T>
constexpr bool twins = Accelerates<Attention, CpuBackend<T>, AttentionShape, View<T>, View<T>,
                                   View<T>, AttentionMemory<CpuBackend<T>>, Out<T>>&&
    Accelerates<AttentionBackward, CpuBackend<T>, AttentionShape, View<T>, View<T>, View<T>,
                View<T>, AttentionMemory<CpuBackend<T>>, Out<T>, Out<T>, Out<T>>;
static_assert(twins<float> && twins<double>);

template <class T>
std::vector<T> waves(Index n, double from) {
  std::vector<T> out;
  for (Index i = 0; i < n; ++i)
    out.push_back(static_cast<T>(std::sin(from + 0.37 * static_cast<double>(i))));
  return out;
}

template <class T>
struct Results {
  std::vector<T> o, dq, dkv;
};

/// One forward and backward, q with gaps between its rows, k and v side by side.
template <class T>
Results<T> run(CpuBackend<T> backend, const AttentionShape& s, bool generic) {
  using B = CpuBackend<T>;
  const Index columns = s.heads * s.width, gap = 3;
  const Index q_rows = s.images * s.queries, k_rows = s.images * s.keys;
  const std::vector<T> q = waves<T>(q_rows * (columns + gap), 0),
                       kv = waves<T>(k_rows * 2 * columns, 1), d_o = waves<T>(q_rows * columns, 2);
  const View<T> qs(q.data(), q_rows, columns, columns + gap);
  const View<T> kvs(kv.data(), k_rows, 2 * columns);
  const View<T> ks = kvs.columns(0, columns), vs = kvs.columns(columns, columns);
  const View<T> d_os(d_o.data(), q_rows, columns);

  const auto bind = [&](Arena<B>& arena, AttentionMemory<B>& memory) {
    if (generic) {
      Attention::generic_bind(arena, s, memory);
    } else {
      attention.bind(backend, arena, s, memory);
    }
  };
  AttentionMemory<B> memory;
  Arena<B> measure(Gradients::all);
  bind(measure, memory);
  const Memory<B> bytes(backend, measure.peak());
  Arena<B> arena(Gradients::all, bytes.data(), bytes.bytes());
  bind(arena, memory);

  const T mark = 77;
  Results<T> r{std::vector<T>(static_cast<std::size_t>(q_rows * columns), mark),
               std::vector<T>(static_cast<std::size_t>(q_rows * (columns + gap)), mark),
               std::vector<T>(static_cast<std::size_t>(k_rows * 2 * columns), mark)};
  const Out<T> os(r.o.data(), q_rows, columns), dqs(r.dq.data(), q_rows, columns, columns + gap),
      dkvs(r.dkv.data(), k_rows, 2 * columns);
  const Out<T> dks = dkvs.columns(0, columns), dvs = dkvs.columns(columns, columns);
  if (generic) {
    Attention::generic(backend, s, qs, ks, vs, memory, os);
    AttentionBackward::generic(backend, s, qs, ks, vs, d_os, memory, dqs, dks, dvs);
  } else {
    attention(backend, s, qs, ks, vs, memory, os);
    attention_backward(backend, s, qs, ks, vs, d_os, memory, dqs, dks, dvs);
  }
  return r;
}

template <class T>
void check_near(const std::vector<T>& a, const std::vector<T>& b) {
  const double by = sizeof(T) == sizeof(float) ? 2e-5 : 1e-12;
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double apart = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    worst = std::fmax(worst, apart / std::fmax(1.0, std::fabs(static_cast<double>(b[i]))));
  }
  CHECK(worst <= by);
}

const std::vector<AttentionShape> shapes{
    {.images = 2, .queries = 64, .keys = 64, .heads = 4, .width = 16, .scale = 0.25},
    {.images = 3, .queries = 65, .keys = 65, .heads = 2, .width = 64, .scale = 0.125},
    {.images = 1, .queries = 3, .keys = 3, .heads = 2, .width = 1, .scale = 1},
    {.images = 2, .queries = 1, .keys = 37, .heads = 3, .width = 5, .scale = 0.5},
    {.images = 2, .queries = 1, .keys = 1, .heads = 1, .width = 17, .scale = 0.5},
    {.images = 1, .queries = 197, .keys = 197, .heads = 2, .width = 24, .scale = 0.2},
    {.images = 1, .queries = 400, .keys = 130, .heads = 1, .width = 40, .scale = 0.2},
};

}  // namespace

TEST_CASE_TEMPLATE("attention: the CPU's twin equals the generic form at every level", T, float,
                   double) {
  for (const AttentionShape& s : shapes) {
    CAPTURE(s.queries);
    CAPTURE(s.width);
    const Results<T> expected = run(CpuBackend<T>(), s, true);
    for (const Level level : {Level::baseline, Level::avx2, Level::avx512}) {
      if (level > machine_level()) continue;
      const Results<T> r = run(CpuBackend<T>(CpuOptions{.level = level}), s, false);
      check_near(r.o, expected.o);
      check_near(r.dq, expected.dq);
      check_near(r.dkv, expected.dkv);
    }
  }
}

TEST_CASE("attention: the CPU's twin gives the same bits on any number of threads") {
  for (const AttentionShape& s : shapes) {
    const Results<float> one = run(CpuBackend<float>(), s, false);
    for (const int threads : {2, 3}) {
      ThreadPool pool(threads);
      const Results<float> more = run(CpuBackend<float>(pool), s, false);
      CHECK(more.o == one.o);
      CHECK(more.dq == one.dq);
      CHECK(more.dkv == one.dkv);
    }
  }
}

TEST_CASE("attention: an image's bits do not depend on the batch around it") {
  AttentionShape s = shapes[1];
  const Results<float> three = run(CpuBackend<float>(), s, false);
  s.images = 1;  // the same numbers come first
  const Results<float> one = run(CpuBackend<float>(), s, false);
  CHECK(std::equal(one.o.begin(), one.o.end(), three.o.begin()));
  CHECK(std::equal(one.dq.begin(), one.dq.end(), three.dq.begin()));
  CHECK(std::equal(one.dkv.begin(), one.dkv.end(), three.dkv.begin()));
}

TEST_CASE(
    "attention: the CPU's twin keeps less than the weights, and Eigen gets the generic form") {
  using B = CpuBackend<float>;
  const AttentionShape s = shapes[0];
  const auto bytes = [&](B backend) {
    Arena<B> arena(Gradients::all);
    AttentionMemory<B> memory;
    attention.bind(backend, arena, s, memory);
    return arena.peak();
  };
  const std::size_t weights = 2 * 4 * 64 * 64 * sizeof(float);
  CHECK(bytes(B()) < weights);
  CHECK(bytes(B(CpuOptions{.product = &eigen_products})) == 2 * weights);
  const Results<float> eigen = run(B(CpuOptions{.product = &eigen_products}), s, false);
  const Results<float> own = run(B(), s, true);
  check_near(eigen.o, own.o);
  check_near(eigen.dkv, own.dkv);
}
