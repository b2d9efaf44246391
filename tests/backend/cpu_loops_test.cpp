#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/reference.hpp"
#include "moxie/backend/thread_pool.hpp"

using moxie::CpuBackend;
using moxie::Index;
using moxie::test::at;
using moxie::test::Dense;

namespace {

struct Count {
  int* seen;
  void operator()(Index i) const { ++seen[i]; }
};
struct CountInStrips : Count {
  static constexpr bool elementwise = true;
};
struct CountPairs {
  int* seen;
  Index cols;
  void operator()(Index i, Index j) const { ++seen[i * cols + j]; }
};
struct CountPairsInStrips : CountPairs {
  static constexpr bool elementwise = true;
};
template <class T>
struct Element {
  moxie::MatrixView<const T> x;
  T operator()(Index r, Index c) const { return x(r, c); }
};

template <class F>
void check_each(const CpuBackend<float>& cpu, Index n, Index grain) {
  std::vector<int> seen(at(n), 0);
  cpu.for_each(n, F{{seen.data()}}, grain);
  CHECK(seen == std::vector<int>(at(n), 1));
}
template <class F>
void check_pairs(const CpuBackend<float>& cpu, Index rows, Index cols) {
  std::vector<int> seen(at(rows * cols), 0);
  cpu.for_each(rows, cols, F{{seen.data(), cols}});
  CHECK(seen == std::vector<int>(at(rows * cols), 1));
}

}  // namespace

TEST_CASE("for_each visits every index once") {
  moxie::ThreadPool pool(3);
  for (const moxie::Level level : moxie::test::levels()) {
    for (const CpuBackend<float>& cpu :
         {CpuBackend<float>({.level = level}), CpuBackend<float>(pool, {.level = level})}) {
      for (const Index n : {0, 1, 63, 64, 65, 200, 5000}) {
        for (const Index grain : {1, 64, 1000}) {
          check_each<CountInStrips>(cpu, n, grain);
        }
      }
      for (const Index rows : {0, 1, 7, 100}) {
        for (const Index cols : {0, 1, 63, 64, 65, 300}) {
          check_pairs<CountPairsInStrips>(cpu, rows, cols);
        }
      }
      check_pairs<CountPairsInStrips>(cpu, 2, 70000);
    }
  }
}

TEST_CASE("for_each does small work on the calling thread, with a functor of any kind") {
  moxie::ThreadPool pool(3);
  const CpuBackend<float> cpu(pool);
  std::vector<std::thread::id> who(30);
  cpu.for_each(30, [&who](Index i) { who[at(i)] = std::this_thread::get_id(); });
  CHECK(who == std::vector<std::thread::id>(30, std::this_thread::get_id()));
}

TEST_CASE_TEMPLATE("column_sums adds chunks of 256 rows in ascending order", T, float, double) {
  for (const moxie::Level level : moxie::test::levels()) {
    const CpuBackend<T> cpu({.level = level});
    for (const Index rows : {0, 1, 255, 256, 257, 1000}) {
      for (const Index cols : {0, 1, 8, 64, 100}) {
        const Dense<T> x(rows, cols, 1, 1);
        std::vector<T> expected(at(cols), T(3));
        for (Index c = 0; c < cols; ++c) {
          T total = 0;
          for (Index chunk = 0; chunk < rows; chunk += moxie::sum_chunk) {
            T sum = 0;
            for (Index r = chunk; r < rows && r < chunk + moxie::sum_chunk; ++r) sum += x(r, c);
            total += sum;
          }
          expected[at(c)] += total;
        }
        std::vector<T> scratch(cpu.column_sums_bytes(rows, cols) / sizeof(T));
        const moxie::VectorView<std::byte> memory{reinterpret_cast<std::byte*>(scratch.data()),
                                                  static_cast<Index>(scratch.size() * sizeof(T))};
        for (const int threads : {1, 2, 3, 8}) {
          moxie::ThreadPool pool(threads);
          std::vector<T> out(at(cols), T(3));
          CpuBackend<T>(pool, {.level = level})
              .column_sums(rows, cols, Element<T>{x.view()}, {out.data(), cols}, memory);
          CHECK(out == expected);
        }
      }
    }
  }
}

TEST_CASE("column_sums refuses a result or scratch of the wrong size") {
  const CpuBackend<float> cpu;
  std::vector<float> memory(100);
  const Dense<float> x(300, 5, 0, 1);
  const Element<float> f{x.view()};
  moxie::VectorView<std::byte> scratch{reinterpret_cast<std::byte*>(memory.data()), 39};
  CHECK_THROWS_WITH_AS(cpu.column_sums(300, 5, f, {memory.data(), 4}, scratch),
                       "moxie::CpuBackend::column_sums: out has 4 elements, expected 5",
                       moxie::shape_error);
  CHECK_THROWS_WITH_AS(
      cpu.column_sums(300, 5, f, {memory.data(), 5}, scratch),
      "moxie::CpuBackend::column_sums: scratch has 39 bytes, expected 40 (column_sums_bytes)",
      moxie::shape_error);
}

TEST_CASE_TEMPLATE("fill and copies move what they say", T, float, double, std::int32_t) {
  moxie::ThreadPool pool(2);
  const CpuBackend<float> cpu(pool);
  for (const Index n : {0, 1, 100, 100000}) {
    std::vector<T> x(at(n), T(1));
    cpu.fill(moxie::VectorView<T>{x.data(), n}, T(7));
    CHECK(x == std::vector<T>(at(n), T(7)));
    std::vector<T> y(at(n));
    cpu.copy(y.data(), x.data(), x.size() * sizeof(T));
    CHECK(y == x);
  }
}

TEST_CASE("allocate aligns to 256 bytes and reports what it cannot give") {
  const CpuBackend<float> cpu;
  void* const p = cpu.allocate(1000);
  CHECK(reinterpret_cast<std::uintptr_t>(p) % 256 == 0);
  cpu.deallocate(p, 1000);
#if !defined(MOXIE_TEST_SANITIZED)  // whose allocator ends the program instead
  CHECK_THROWS_AS(cpu.allocate(std::size_t{1} << 60U), std::bad_alloc);
#endif
}

TEST_CASE("CpuBackend refuses a level that the machine lacks") {
  if (moxie::machine_level() == moxie::Level::avx512) return;
  CHECK_THROWS_AS(CpuBackend<float>({.level = moxie::Level::avx512}), moxie::config_error);
}

TEST_CASE("CpuBackend is a handle: copies share executor and level") {
  moxie::ThreadPool pool(2);
  const CpuBackend<float> cpu(pool, {.level = moxie::Level::baseline});
  const CpuBackend<float> copy = cpu;
  CHECK(copy.executor() == &pool);
  CHECK(copy.workers() == 2);
  CHECK(copy.level() == moxie::Level::baseline);
  CHECK(CpuBackend<float>().executor() == nullptr);
  CHECK(CpuBackend<float>().level() == moxie::machine_level());
}
