#pragma once

#include "moxie/capacity/priority.hpp"

namespace moxie {

/// Memory of assign_slots.
template <Backend B>
struct AssignMemory {
  IntVector<B> order;        // [T]
  IntVector<B> key, value;   // [A]
  IntVector<B> begin, base;  // [E*G + 1]
  Scratch<B> scratch;

  /// For up to `shape.assignments` assignments of `shape.tokens` tokens in at most `groups` groups;
  /// `order_bytes`: what the priority asks for.
  void bind(Arena<B>& arena, const B& backend, const RoutingShape& shape, Index groups,
            std::size_t order_bytes) {
    using Id = std::int32_t;
    const Index segments = shape.experts * groups + 1;
    order = arena.template scratch<Id>(shape.tokens);
    key = arena.template scratch<Id>(shape.assignments);
    value = arena.template scratch<Id>(shape.assignments);
    begin = arena.template scratch<Id>(segments);
    base = arena.template scratch<Id>(segments);
    std::size_t bytes = backend.sort_pairs_bytes(shape.assignments);
    if (const std::size_t scan = backend.exclusive_scan_bytes(segments); scan > bytes) bytes = scan;
    if (order_bytes > bytes) bytes = order_bytes;
    scratch = arena.scratch_bytes(bytes);
  }
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
  ConstIntVector<B> key, value, begin, base;
  Index capacity;
  SparseRouting<B> r;

  MOXIE_HD void operator()(Index i) const {
    const Index segment = key[i];
    const Index a = value[i];
    Index slot = -1;
    Index row = -1;
    if (segment + 1 < begin.size) {
      slot = i - begin[segment];
      if (slot < capacity) {
        row = base[segment] + slot;
        r.token[row] = static_cast<std::int32_t>(a / r.choice.cols);
        r.assignment[row] = static_cast<std::int32_t>(a);
      }
    }
    r.slot.data[a] = static_cast<std::int32_t>(slot);
    r.row.data[a] = static_cast<std::int32_t>(row);
  }
};
/// What is left to do when choices and slots are known by other means than the sort.
template <Backend B>
struct SlotOnly {
  static constexpr bool one_level = true;
  ConstIntVector<B> key, value, begin;
  IntMatrix<B> slot;

  MOXIE_HD void operator()(Index i) const {
    const Index segment = key[i];
    slot.data[value[i]] =
        static_cast<std::int32_t>(segment + 1 < begin.size ? i - begin[segment] : -1);
  }
};
template <Backend B>
struct PlaceSlot {
  static constexpr bool one_level = true;
  ConstIntVector<B> base;
  Index groups, capacity;
  SparseRouting<B> r;

  MOXIE_HD void operator()(Index a) const {
    const Index t = a / r.choice.cols;
    const Index e = r.choice.data[a];
    Index row = -1;
    if (e >= 0 && r.slot.data[a] < capacity) {
      row = base[e * groups + t / r.shape.group] + r.slot.data[a];
      r.token[row] = static_cast<std::int32_t>(t);
      r.assignment[row] = static_cast<std::int32_t>(a);
    }
    r.row.data[a] = static_cast<std::int32_t>(row);
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
template <Backend B, class C>
bool reroutes(const C& capacity) {
  if constexpr (HasReroute<C, B>) {
    return capacity.reroutes();
  } else {
    return false;
  }
}
}  // namespace detail

/// Gives each assignment of a token choice its slot, and each kept one its row: fills r.slot,
/// r.row, r.token, r.assignment and r.offset from r.choice.
///
/// `capacity`: slots of an expert in a group; an assignment whose slot is at or past it is dropped
/// (row -1), and dropped ones count on. `priority` is any Capacity; its order is used if it has
/// one, and so is its `reroute`. Equal to the loop of algorithms that serves all first choices,
/// then all second choices, in the priority's order.
///
/// Returns whether r.choice may have changed (the capacity reroutes): weights made before are then
/// stale, and the router must `weigh` again.
///
/// Cost: one stable sort of T*K keys of log2(E*G) bits. Does not block.
template <Backend B, class C>
bool assign_slots(B& b, const Context<B>& ctx, const C& priority, Index capacity,
                  const AssignMemory<B>& memory, SparseRouting<B>& r) {
  const Index tokens = r.shape.tokens;
  const Index groups = r.shape.groups();
  const Index experts = r.shape.experts;
  const Index assignments = r.choice.size();
  ConstIntVector<B> order;
  if constexpr (HasPriority<C, B>) {
    const IntVector<B> own = memory.order.middle(0, tokens);
    priority.order(b, ctx, r, own, memory.scratch);
    order = own;
  }
  const IntVector<B> key = memory.key.middle(0, assignments);
  const IntVector<B> value = memory.value.middle(0, assignments);
  const Index segments = experts * groups;
  const IntVector<B> begin = memory.begin.middle(0, segments + 1);
  const IntVector<B> base = memory.base.middle(0, segments + 1);

  b.for_each(assignments,
             detail::AssignKeys<B>{r.choice, order, r.shape.group, groups, experts, key, value});
  b.sort_pairs(key, value, detail::bits_for(segments + 1), memory.scratch);
  b.for_each(segments + 1, detail::SegmentBegin<B>{key, begin});
  b.for_each(segments + 1, detail::SegmentKept<B>{begin, capacity, base});
  const bool rerouted = detail::reroutes<B>(priority);
  if constexpr (HasReroute<C, B>) {
    if (rerouted) {
      b.for_each(assignments, detail::SlotOnly<B>{key, value, begin, r.slot});
      // The sorted keys are not needed again: their memory serves the policy.
      priority.reroute(
          b, ctx, FirstPass<B>{capacity, order, base.middle(0, segments), key.middle(0, tokens)},
          r);
    }
  }
  b.exclusive_scan(ConstIntVector<B>(base), base, memory.scratch);
  if (rerouted) {
    b.for_each(assignments, detail::PlaceSlot<B>{base, groups, capacity, r});
  } else {
    b.for_each(assignments, detail::PlaceAssignment<B>{key, value, begin, base, capacity, r});
  }
  b.for_each(experts + 1, detail::ExpertOffset<B>{base, groups, r.offset});
  return rerouted;
}

}  // namespace moxie
