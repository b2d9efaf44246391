#pragma once

#include <cstddef>
#include <type_traits>

#include "moxie/core/error.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

/// Rows in groups of as many each, which lie together, and how many columns are summed.
struct GroupShape {
  Index groups = 0;
  Index group = 0;  ///< rows of a group
  Index cols = 0;

  /// Parts of `sum_chunk` rows that a group is cut into where they are summed at once.
  MOXIE_HD constexpr Index chunks() const { return (group + sum_chunk - 1) / sum_chunk; }
};

namespace detail {
/// A term whose rows are dear to make, or cannot be shared among tasks: generic sums are of whole rows, in parts.
template <class F>
concept WholeRows = requires {
  requires F::whole_rows;
};
/// Parts of a group's rows, which a generic sum of whole rows has at once: part of the result.
inline constexpr Index row_parts = 16;

/// Columns that are summed side by side: on a host a strip of them, so that rows are read as they lie. A term in which
/// nothing vectorises has a task for each column.
template <class B, class F>
inline constexpr Index sum_columns = std::is_same_v<typename B::Space, HostSpace> && !requires {
  requires F::one_level;
}
? strip : 1;

/// An index is a group and so many columns.
template <Backend B, class F>
struct GroupSum {
  static constexpr bool one_level = requires { requires F::one_level; };
  static constexpr Index width = sum_columns<B, F>;
  GroupShape shape;
  F f;
  Vector<B> sums;

  MOXIE_HD static constexpr Index strips(Index cols) { return (cols + width - 1) / width; }

  MOXIE_HD MOXIE_INLINE void operator()(Index i) const {
    const Index g = i / strips(shape.cols);
    const Index first = i % strips(shape.cols) * width;
    const Index n = shape.cols - first;
    typename B::Scalar sum[static_cast<std::size_t>(width)] = {};
    for (Index r = g * shape.group; r < (g + 1) * shape.group; ++r) {
      const auto row = f.of(r);
      if (!row) continue;
      if (n >= width) {
        for (Index s = 0; s < width; ++s) sum[s] += row(first + s);
      } else {
        for (Index s = 0; s < n; ++s) sum[s] += row(first + s);
      }
    }
    for (Index s = 0; s < width && s < n; ++s) sums[g * shape.cols + first + s] = sum[s];
  }
};

/// An index is a group and a part of its rows.
template <Backend B, class F>
struct GroupPartSum {
  static constexpr bool one_level = requires { requires F::one_level; };
  GroupShape shape;
  F f;
  Vector<B> parts;  // [G, row_parts, C]

  MOXIE_HD MOXIE_INLINE void operator()(Index i) const {
    const Index g = i / row_parts;
    auto* own = parts.data + i * shape.cols;
    for (Index c = 0; c < shape.cols; ++c) own[c] = 0;
    for (Index r = g * shape.group + i % row_parts; r < (g + 1) * shape.group; r += row_parts) {
      const auto row = f.of(r);
      if (!row) continue;
      row_map<half_strip>(shape.cols, own, [=](Index c) { return own[c] + row(c); });
    }
  }
};
template <Backend B>
struct GroupPartFold {
  static constexpr bool one_level = true;
  ConstVector<B> parts;
  Index cols;
  Vector<B> sums;

  MOXIE_HD void operator()(Index i) const {
    typename B::Scalar sum = 0;
    for (Index part = 0; part < row_parts; ++part)
      sum += parts[(i / cols * row_parts + part) * cols + i % cols];
    sums[i] = sum;
  }
};
}  // namespace detail

/// Numbers that `group_sums` writes: the sums, then room for sums of parts.
constexpr Index group_sums_size(const GroupShape& s, bool whole_rows = false) {
  const Index least = whole_rows ? detail::row_parts : 0;
  const Index chunks = s.chunks() > 1 ? s.chunks() : 0;
  return s.groups * s.cols * (1 + (chunks > least ? chunks : least));
}
/// The [G, C] sums alone.
template <class V>
V group_totals(V sums, const GroupShape& s) {
  return sums.middle(0, s.groups * s.cols);
}

/// sums[g, c] = the sum of f.of(r)(c) over the rows r of group g that count.
///
/// f: a functor of the backend, whose `of(r)` is what the columns of row r share: a trivial object, true if the row
/// counts, called with a column. `static constexpr bool whole_rows = true` says that it is dear.
/// sums: group_sums_size numbers, of which the first G * C are the sums and the others sums of parts, or 0. In a fixed
/// order, which depends on the backend. Does not block.
struct GroupSums {
  template <Backend B, class F>
  void operator()(B& b, const GroupShape& shape, const F& f, Vector<B> sums) const {
    const Index size = group_sums_size(shape, detail::WholeRows<F>);
    if (sums.size != size)
      throw_shape("moxie::GroupSums: sums has ", sums.size, " numbers, expected ", size,
                  " (group_sums_size)");
    detail::run_or_generic(*this, b, shape, f, sums);
  }
  template <Backend B, class F>
  static void generic(B& b, const GroupShape& shape, const F& f, Vector<B> sums) {
    const Vector<B> totals = group_totals(sums, shape);
    Index used = totals.size;
    if constexpr (detail::WholeRows<F>) {
      const Vector<B> parts = sums.middle(used, used * detail::row_parts);
      b.for_each(shape.groups * detail::row_parts, detail::GroupPartSum<B, F>{shape, f, parts}, 1);
      b.for_each(used, detail::GroupPartFold<B>{parts, shape.cols, totals});
      used += parts.size;
    } else {
      using Sum = detail::GroupSum<B, F>;
      b.for_each(shape.groups * Sum::strips(shape.cols), Sum{shape, f, totals}, 1);
    }
    if (used < sums.size) b.fill(sums.middle(used, sums.size - used), typename B::Scalar(0));
  }
};
inline constexpr GroupSums group_sums{};

}  // namespace moxie
