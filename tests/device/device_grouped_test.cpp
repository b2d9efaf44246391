#if defined(MOXIE_TEST_THRUST)

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "device/device_backends.hpp"
#include "device/reference.hpp"

namespace moxie::test {
namespace {

constexpr double unwritten = 77;

/// Three experts, the second without rows; the first rows and the last belong to nobody, and what
/// stands there must not even be read: their indices point far outside.
struct Groups {
  static constexpr Index capacity = 12;
  static constexpr Index experts = 3;
  static constexpr Index tokens = 6;
  std::vector<std::int32_t> offset = {2, 5, 5, 9};
  std::vector<std::int32_t> index = {1 << 30, -(1 << 30), 3, 0,       5,       2,
                                     2,       1,          4, 1 << 30, 1 << 30, -(1 << 30)};

  Index expert(Index r) const {
    for (Index e = 0; e < experts; ++e) {
      if (r >= offset[std::size_t(e)] && r < offset[std::size_t(e) + 1]) return e;
    }
    return -1;
  }
};

struct RowsCase {
  bool gather, scale;
};

/// Rows of one matrix, by index or as they lie, scaled or not, and their values on the host.
template <class B>
class SomeRows {
  using T = typename B::Scalar;

 public:
  SomeRows(B& backend, const Groups& groups, RowsCase kind, Index width, std::uint32_t seed)
      : kind_(kind),
        width_(width),
        values_(numbers<T>((kind.gather ? Groups::tokens : Groups::capacity) * (width + 2), seed)),
        scales_(numbers<T>(Groups::capacity, seed + 1)),
        groups_(groups),
        x_(backend, values_),
        scale_(backend, scales_),
        index_(backend, groups.index),
        offset_(backend, groups.offset) {}

  Rows<B> rows() const {
    Rows<B> r{};
    r.x = x_.view(kind_.gather ? Groups::tokens : Groups::capacity, width_, width_ + 2);
    if (kind_.gather) r.index = index_.view();
    if (kind_.scale) r.scale = scale_.view();
    r.offset = offset_.view();
    r.rows = Groups::capacity;
    return r;
  }
  double value(Index r, Index c) const {
    const Index source = kind_.gather ? groups_.index[std::size_t(r)] : r;
    const double factor = kind_.scale ? double(scales_[std::size_t(r)]) : 1.0;
    return factor * double(values_[std::size_t(source * (width_ + 2) + c)]);
  }

 private:
  RowsCase kind_;
  Index width_;
  std::vector<T> values_;
  std::vector<T> scales_;
  Groups groups_;
  Buffer<T, B> x_;
  Buffer<T, B> scale_;
  Buffer<std::int32_t, B> index_;
  Buffer<std::int32_t, B> offset_;
};

TEST_CASE_TEMPLATE("DeviceBackend::grouped_gemm gathers, scales and writes its rows only", B,
                   DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  const Groups groups;
  const Index inner = 7, cols = 5;
  for (const auto kind : {RowsCase{false, false}, RowsCase{true, false}, RowsCase{false, true},
                          RowsCase{true, true}}) {
    for (const Op op : {Op::none, Op::transpose}) {
      CAPTURE(kind.gather);
      CAPTURE(kind.scale);
      CAPTURE(static_cast<int>(op));
      const SomeRows<B> x(backend, groups, kind, inner, 11);
      const Index w_rows = op == Op::none ? inner : cols;  // of one expert
      const Index w_cols = op == Op::none ? cols : inner;
      const std::vector<T> w = numbers<T>(Groups::experts * w_rows * (w_cols + 1), 13);
      const Buffer<T, B> w_buffer(backend, w);
      const Buffer<T, B> out(backend, Groups::capacity * (cols + 2), T(unwritten));
      std::vector<double> expected(std::size_t(out.size()), unwritten);
      for (Index r = 0; r < Groups::capacity; ++r) {
        const Index e = groups.expert(r);
        if (e < 0) continue;
        for (Index c = 0; c < cols; ++c) {
          double sum = 0;
          for (Index k = 0; k < inner; ++k) {
            const Index row = e * w_rows + (op == Op::none ? k : c);
            const Index col = op == Op::none ? c : k;
            sum += x.value(r, k) * double(w[std::size_t(row * (w_cols + 1) + col)]);
          }
          expected[std::size_t(r * (cols + 2) + c)] = sum;
        }
      }

      backend.grouped_gemm(x.rows(), op,
                           w_buffer.view(Groups::experts * w_rows, w_cols, w_cols + 1),
                           out.view(Groups::capacity, cols, cols + 2));

      CHECK(largest_error(out.to_vector(), expected) <= rounding<T>);
    }
  }
}

TEST_CASE_TEMPLATE("DeviceBackend::grouped_gemm_weights adds the rows of each expert", B,
                   DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  const Groups groups;
  const Index inner = 7, cols = 5;
  for (const auto kind : {RowsCase{false, false}, RowsCase{true, false}, RowsCase{false, true},
                          RowsCase{true, true}}) {
    CAPTURE(kind.gather);
    CAPTURE(kind.scale);
    const SomeRows<B> x(backend, groups, kind, inner, 14);
    const SomeRows<B> dy(backend, groups, {!kind.gather, kind.scale}, cols, 16);
    std::vector<T> before = numbers<T>(Groups::experts * inner * (cols + 2), 18);
    const Buffer<T, B> dw(backend, before);
    std::vector<double> expected = in_double(before);
    for (Index r = 0; r < Groups::capacity; ++r) {
      const Index e = groups.expert(r);
      if (e < 0) continue;
      for (Index k = 0; k < inner; ++k) {
        for (Index c = 0; c < cols; ++c) {
          expected[std::size_t((e * inner + k) * (cols + 2) + c)] += x.value(r, k) * dy.value(r, c);
        }
      }
    }

    backend.grouped_gemm_weights(x.rows(), dy.rows(),
                                 dw.view(Groups::experts * inner, cols, cols + 2));

    const std::vector<T> sums = dw.to_vector();
    CHECK(largest_error(sums, expected) <= rounding<T>);
    const auto empty = std::ptrdiff_t(inner * (cols + 2));  // the second expert, bit for bit
    CHECK(std::equal(sums.begin() + empty, sums.begin() + 2 * empty, before.begin() + empty));
  }
}

TEST_CASE_TEMPLATE("DeviceBackend: grouped products of no rows and of no experts", B,
                   DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  const Buffer<T, B> x(backend, 6, T(1));
  const Buffer<T, B> out(backend, 6, T(unwritten));
  for (const std::size_t offsets : {1U, 4U}) {
    const Buffer<std::int32_t, B> offset(backend, std::vector<std::int32_t>(offsets, 0));
    const auto experts = static_cast<Index>(offsets) - 1;
    const Buffer<T, B> w(backend, experts * 4, T(2));
    Rows<B> rows{};
    rows.x = x.view(3, 2);
    rows.offset = offset.view();
    rows.rows = 3;
    backend.grouped_gemm(rows, Op::none, w.view(experts * 2, 2), out.view(3, 2));
    CHECK(out.to_vector() == std::vector<T>(6, T(unwritten)));
    backend.grouped_gemm_weights(rows, rows, w.view(experts * 2, 2));
    CHECK(w.to_vector() == std::vector<T>(std::size_t(experts) * 4, T(2)));
  }
}

}  // namespace
}  // namespace moxie::test

#endif
