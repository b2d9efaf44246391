#if defined(MOXIE_TEST_THRUST)

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "device/device_backends.hpp"
#include "device/reference.hpp"
#include "moxie/core/parameters.hpp"

namespace moxie::test {
namespace {

struct CountOne {
  std::int32_t* count;
  MOXIE_HD void operator()(Index i) const { ++count[i]; }
};

template <class T, class Space>
struct Number {
  MatrixView<T, Space> out;
  MOXIE_HD void operator()(Index i, Index j) const { out(i, j) += static_cast<T>(100 * i + j); }
};

TEST_CASE_TEMPLATE("DeviceBackend allocates 256-byte aligned memory and copies both ways", B,
                   DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  for (const std::size_t bytes : {0U, 1U, 4097U}) {
    void* p = backend.allocate(bytes);
    CHECK(p != nullptr);
    CHECK(reinterpret_cast<std::uintptr_t>(p) % 256 == 0);
    backend.deallocate(p, bytes);
  }

  const std::vector<T> values = numbers<T>(1001, 1);
  Buffer<T, B> first(backend, values);
  Buffer<T, B> second(backend, 1001, T(0));
  backend.copy(second.data(), first.data(), values.size() * sizeof(T));
  CHECK(second.to_vector() == values);
  backend.copy(second.data(), first.data(), 0);
  backend.copy_from_host(nullptr, nullptr, 0);
  backend.copy_to_host(nullptr, nullptr, 0);
}

TEST_CASE_TEMPLATE("DeviceBackend fills scalars and integers", B, DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  Buffer<T, B> x(backend, 301, T(0));
  backend.fill(x.view().middle(1, 299), 2.5F);
  std::vector<T> expected(301, T(2.5));
  expected.front() = expected.back() = 0;
  CHECK(x.to_vector() == expected);

  Buffer<std::int32_t, B> i(backend, 5, 0);
  backend.fill(i.view(), -3);
  CHECK(i.to_vector() == std::vector<std::int32_t>(5, -3));
  backend.fill(i.view().middle(5, 0), 9);
  CHECK(i.to_vector() == std::vector<std::int32_t>(5, -3));
}

TEST_CASE_TEMPLATE("parameters start on a device with the bits of the host", B, DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  Parameters<B> parameters(backend);
  for (const bool same : {false, true}) {
    const std::string name = same ? "same" : "apart";
    parameters.add({.name = name,
                    .shape = {3, 5, 7},
                    .initializer = Initializer::xavier_uniform(5, 7),
                    .expert_axis = true,
                    .same_experts = same});
  }
  parameters.add({.name = "ones", .shape = {9}, .initializer = Initializer::constant(1)});
  parameters.add({.name = "normal", .shape = {6}, .initializer = Initializer::normal(2)});
  parameters.add(
      {.name = "none", .shape = {0, 4}, .initializer = Initializer::xavier_uniform(1, 1)});
  for (const std::uint64_t seed : {11U, 12U}) {  // a second time, in place
    parameters.initialize(seed);
    std::vector<T> values(static_cast<std::size_t>(parameters.size()));
    backend.copy_to_host(values.data(), parameters.values().data, values.size() * sizeof(T));
    for (const ParameterEntry& e : parameters.entries()) {
      CAPTURE(e.name);
      const Random random(seed, 0, stream_id(e.name.c_str()));
      const Index own = e.same_experts ? e.size() / 3 : e.size();
      for (Index i = 0; i < e.size(); ++i)
        CHECK(values[static_cast<std::size_t>(e.offset + i)] ==
              static_cast<T>(e.initializer(random, static_cast<std::uint64_t>(i % own))));
    }
  }
}

struct NotePlace {
  Index* place;  // [2]
  MOXIE_HD void operator()(Index row, Index col) const {
    place[0] = row;
    place[1] = col;
  }
};

TEST_CASE("An index of a matrix is a row and a column, also where 32 bits do not hold it") {
  Index place[2] = {};
  const auto at = [&](Index i, Index cols) {
    detail::device::ByRowAndColumn<NotePlace>{{place}, cols}(i);
    return std::vector<Index>{place[0], place[1]};
  };
  const Index large = (Index{1} << 32) + 5;
  CHECK(at(17, 5) == std::vector<Index>{3, 2});
  CHECK(at(large - 6, 1000) == std::vector<Index>{4294967, 295});
  CHECK(at(large, 1000) == std::vector<Index>{4294967, 301});
  CHECK(at(17, large) == std::vector<Index>{0, 17});
  CHECK(at(3 * large + 1, large) == std::vector<Index>{3, 1});
}

TEST_CASE_TEMPLATE("DeviceBackend::for_each visits each index once", B, DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  Buffer<std::int32_t, B> count(backend, 1000, 0);
  backend.for_each(0, CountOne{count.data()});
  backend.for_each(777, CountOne{count.data()});
  backend.for_each(777, CountOne{count.data()}, 64);
  std::vector<std::int32_t> expected(1000, 0);
  std::fill_n(expected.begin(), 777, 2);
  CHECK(count.to_vector() == expected);

  Buffer<T, B> out(backend, 7 * 16, T(0));
  const Number<T, typename B::Space> number{out.view(7, 13, 16)};
  backend.for_each(7, 13, number);
  backend.for_each(0, 13, number);
  backend.for_each(7, 0, number);
  const std::vector<T> written = out.to_vector();
  for (Index i = 0; i < 7; ++i) {
    for (Index j = 0; j < 16; ++j) {
      CHECK(written[std::size_t(i * 16 + j)] == (j < 13 ? T(100 * i + j) : T(0)));
    }
  }
}

TEST_CASE_TEMPLATE("DeviceBackend::column_sums adds fixed chunks in ascending order", B,
                   DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  const Index cols = 5;
  for (const Index rows : {0, 1, 255, 256, 257, 1000}) {
    CAPTURE(rows);
    const std::vector<T> values = numbers<T>(rows * cols, 3);
    const std::vector<T> before = numbers<T>(cols, 4);
    Buffer<T, B> x(backend, values);
    Buffer<T, B> out(backend, before);
    auto scratch = scratch_of(backend, backend.column_sums_bytes(rows, cols));

    backend.column_sums(rows, cols, Square<T, typename B::Space>{x.view(rows, cols)}, out.view(),
                        scratch.view());

    std::vector<T> same_order = before;
    std::vector<double> expected = in_double(before);
    for (Index c = 0; c < cols; ++c) {
      T total = 0;
      for (Index first = 0; first < rows; first += sum_chunk) {
        T sum = 0;
        for (Index r = first; r < std::min(rows, first + sum_chunk); ++r) {
          const T v = values[std::size_t(r * cols + c)];
          sum += v * v;
          expected[std::size_t(c)] += double(v) * double(v);
        }
        total += sum;
      }
      same_order[std::size_t(c)] += total;
    }
    const std::vector<T> sums = out.to_vector();
    CHECK(largest_error(sums, expected) <= rounding<T>);
    CHECK(largest_error(sums, in_double(same_order)) <= std::numeric_limits<T>::epsilon());
  }
}

}  // namespace
}  // namespace moxie::test

#endif
