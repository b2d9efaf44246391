#pragma once

#include "moxie/capacity/priority.hpp"
#include "moxie/ops/assign_rows.hpp"

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
/// Cost: that of `assign_rows`. Does not block.
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
  const Index segments = experts * groups;
  const AssignmentLists<B> lists{.choice = r.choice,
                                 .order = order,
                                 .group = r.shape.group,
                                 .experts = experts,
                                 .capacity = capacity,
                                 .slot = r.slot,
                                 .row = r.row,
                                 .token = r.token,
                                 .assignment = r.assignment,
                                 .offset = r.offset,
                                 .key = memory.key.middle(0, assignments),
                                 .value = memory.value.middle(0, assignments),
                                 .begin = memory.begin.middle(0, segments + 1),
                                 .base = memory.base.middle(0, segments + 1),
                                 .scratch = memory.scratch};
  if constexpr (HasReroute<C, B>) {
    if (priority.reroutes()) {
      detail::sort_by_segment(b, lists);
      b.for_each(assignments, detail::SlotOnly<B>{lists.key, lists.value, lists.begin, r.slot});
      // The sorted keys are not needed again: their memory serves the policy.
      priority.reroute(b, ctx,
                       FirstPass<B>{capacity, order, lists.base.middle(0, segments),
                                    lists.key.middle(0, tokens)},
                       r);
      b.exclusive_scan(ConstIntVector<B>(lists.base), lists.base, memory.scratch);
      b.for_each(assignments, detail::PlaceSlot<B>{lists.base, groups, capacity, r});
      b.for_each(experts + 1, detail::ExpertOffset<B>{lists.base, groups, r.offset});
      return true;
    }
  }
  assign_rows(b, lists);
  return false;
}

}  // namespace moxie
