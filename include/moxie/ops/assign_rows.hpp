#pragma once

#include "moxie/core/bits.hpp"
#include "moxie/ops/accelerate.hpp"

namespace moxie {

/// The assignments of a token choice, where they go, and memory to find that out.
template <Backend B>
struct AssignmentLists {
  ConstIntMatrix<B> choice;  ///< [T, K] expert of each assignment, -1: none
  ConstIntVector<B> order;   ///< [T] order[j] is the token served j-th, groups together; or empty
  Index group = 0;           ///< S: tokens of a group, which lie together
  Index experts = 0;         ///< E
  Index capacity = 0;        ///< C: slots of an expert in a group

  IntMatrix<B> slot;        ///< [T, K] place in an expert's queue of a group, counts on past C
  IntMatrix<B> row;         ///< [T, K] row, -1: none
  IntVector<B> token;       ///< [R] token of each row
  IntVector<B> assignment;  ///< [R] assignment of each row
  IntVector<B> offset;      ///< [E + 1] rows of expert e are [offset[e], offset[e + 1])

  IntVector<B> key, value;   ///< [T * K] temporary
  IntVector<B> begin, base;  ///< [E * G + 1] temporary
  Scratch<B> scratch;        ///< temporary: for a sort of T * K and a scan of E * G + 1

  MOXIE_HD Index groups() const { return group > 0 ? choice.rows / group : 0; }
  MOXIE_HD Index segments() const { return experts * groups(); }
};

namespace detail {
// Keys are segments e * G + g, so that rows of an expert lie together, group after group;
// assignments without an expert come last. Laid out choice by choice in the order of priority, a
// stable sort gives each its slot.
template <Backend B>
struct AssignKeys {
  static constexpr bool one_level = true;
  ConstIntMatrix<B> choice;
  ConstIntVector<B> order;  // empty: the tokens as they are
  Index group, groups, experts;
  IntVector<B> key, value;

  MOXIE_HD void operator()(Index i) const {
    const Index tokens = choice.rows;
    const Index k = i / tokens;
    const Index t = order ? order[i - k * tokens] : i - k * tokens;
    const Index e = choice(t, k);
    key[i] = static_cast<std::int32_t>(e < 0 ? experts * groups : e * groups + t / group);
    value[i] = static_cast<std::int32_t>(t * choice.cols + k);
  }
};
template <Backend B>
struct SegmentBegin {
  static constexpr bool one_level = true;
  ConstIntVector<B> key;
  IntVector<B> begin;

  MOXIE_HD void operator()(Index s) const {
    Index low = 0;
    Index high = key.size;
    while (low < high) {
      const Index middle = low + (high - low) / 2;
      if (key[middle] < s) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    begin[s] = static_cast<std::int32_t>(low);
  }
};
template <Backend B>
struct SegmentKept {
  static constexpr bool one_level = true;
  ConstIntVector<B> begin;
  Index capacity;
  IntVector<B> kept;

  MOXIE_HD void operator()(Index s) const {
    const Index held = s + 1 < begin.size ? begin[s + 1] - begin[s] : 0;
    kept[s] = static_cast<std::int32_t>(held < capacity ? held : capacity);
  }
};
template <Backend B>
struct PlaceAssignment {
  static constexpr bool one_level = true;
  AssignmentLists<B> a;

  MOXIE_HD void operator()(Index i) const {
    const Index segment = a.key[i];
    const Index at = a.value[i];
    Index slot = -1;
    Index row = -1;
    if (segment + 1 < a.begin.size) {
      slot = i - a.begin[segment];
      if (slot < a.capacity) {
        row = a.base[segment] + slot;
        a.token[row] = static_cast<std::int32_t>(at / a.choice.cols);
        a.assignment[row] = static_cast<std::int32_t>(at);
      }
    }
    a.slot.data[at] = static_cast<std::int32_t>(slot);
    a.row.data[at] = static_cast<std::int32_t>(row);
  }
};
template <Backend B>
struct ExpertOffset {
  static constexpr bool one_level = true;
  ConstIntVector<B> base;
  Index groups;
  IntVector<B> offset;

  MOXIE_HD void operator()(Index e) const { offset[e] = base[e * groups]; }
};

/// The assignments sorted by segment, where each segment begins, and, in `base`, how many of it are
/// kept.
template <Backend B>
void sort_by_segment(B& b, const AssignmentLists<B>& a) {
  const Index segments = a.segments();
  b.for_each(a.key.size,
             AssignKeys<B>{a.choice, a.order, a.group, a.groups(), a.experts, a.key, a.value});
  b.sort_pairs(a.key, a.value, bits_for(segments + 1), a.scratch);
  b.for_each(segments + 1, SegmentBegin<B>{a.key, a.begin});
  b.for_each(segments + 1, SegmentKept<B>{a.begin, a.capacity, a.base});
}
}  // namespace detail

/// Gives each assignment its slot, and each kept one its row: those of an expert together, group
/// after group in it, by slots in a group. Equal to the loop that serves all first choices of a
/// group, then all second choices, in `order`; an assignment whose slot is at or past the capacity
/// has no row.
///
/// Cost: one stable sort of T*K keys of log2(E*G) bits. Does not block.
struct AssignRows {
  template <Backend B>
  void operator()(B& b, const AssignmentLists<B>& lists) const {
    detail::run_or_generic(*this, b, lists);
  }
  template <Backend B>
  static void generic(B& b, const AssignmentLists<B>& a) {
    detail::sort_by_segment(b, a);
    b.exclusive_scan(ConstIntVector<B>(a.base), a.base, a.scratch);
    b.for_each(a.key.size, detail::PlaceAssignment<B>{a});
    b.for_each(a.experts + 1, detail::ExpertOffset<B>{a.base, a.groups(), a.offset});
  }
};
inline constexpr AssignRows assign_rows{};

}  // namespace moxie
