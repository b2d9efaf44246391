#pragma once

#include "moxie/capacity/assign.hpp"
#include "moxie/ops/largest_tokens.hpp"

namespace moxie::detail {

/// The most pairs of a router whose experts choose: G*E*min(C, S).
inline Index expert_choice_assignments(const RoutingShape& s) {
  return s.groups() * s.experts * (s.capacity < s.group ? s.capacity : s.group);
}

/// Memory of choose_tokens, in the router's scratch.
template <Backend B>
struct ExpertChoiceMemory {
  IntVector<B> begin;       // [E*G + 1] first row of each expert and group
  IntVector<B> key, value;  // [R]
  Scratch<B> work;

  void bind(Arena<B>& arena, const B& b, const RoutingShape& shape) {
    using Id = std::int32_t;
    const Index pairs = shape.experts * shape.groups();
    const Index rows = expert_choice_assignments(shape);
    begin = arena.template kept<Id>(pairs + 1);
    key = arena.template kept<Id>(rows);
    value = arena.template kept<Id>(rows);
    std::size_t bytes = b.sort_pairs_bytes(rows);
    if (const std::size_t n = largest_tokens_bytes(b, pairs); n > bytes) bytes = n;
    work = arena.scratch_bytes(bytes);
  }
};
template <Backend B>
std::size_t expert_choice_bytes(const B& b, const RoutingShape& shape) {
  Arena<B> measured(Gradients::all);
  ExpertChoiceMemory<B>().bind(measured, b, shape);
  return measured.peak();
}

template <Backend B>
struct RowKeys {  // token of each row; rows past the last come last
  static constexpr bool one_level = true;
  ConstIntVector<B> begin;
  Index tokens;
  ConstIntVector<B> token;
  IntVector<B> key, value;

  MOXIE_HD void operator()(Index row) const {
    key[row] = row < begin[begin.size - 1] ? token[row] : static_cast<std::int32_t>(tokens);
    value[row] = static_cast<std::int32_t>(row);
  }
};
template <Backend B>
struct PlaceChosen {
  static constexpr bool one_level = true;
  ConstIntVector<B> key, value, begin;
  Index groups;
  SparseRouting<B> r;

  MOXIE_HD void operator()(Index a) const {
    const Index t = key[a];
    if (t >= r.shape.tokens) return;
    const Index row = value[a];
    const Index e = expert_of_row(r.offset.data, r.shape.experts, row);
    const Index pair = e * groups + t / r.shape.group;
    r.choice.data[a] = static_cast<std::int32_t>(e);
    r.row.data[a] = static_cast<std::int32_t>(row);
    r.slot.data[a] = static_cast<std::int32_t>(row - begin[pair]);
    r.assignment[row] = static_cast<std::int32_t>(a);
  }
};

/// Each expert takes the min(C, S) tokens of each group with the largest scores: fills all of r but
/// the weights. Rows are those of assign_slots, expert by expert and group by group in an expert,
/// the best token first; the list of a token is in ascending order of its experts. r.scratch holds
/// expert_choice_bytes.   Cost: largest_tokens, and one stable sort of the rows by token.
template <Backend B>
void choose_tokens(B& b, const Context<B>& ctx, ConstMatrix<B> scores, bool positive,
                   SparseRouting<B>& r) {
  Arena<B> arena(Gradients::all, r.scratch.data, static_cast<std::size_t>(r.scratch.size));
  ExpertChoiceMemory<B> memory;
  memory.bind(arena, b, r.shape);
  const Index tokens = r.shape.tokens;
  largest_tokens(b, scores, ctx.mask, TokenQuota{r.shape.group, r.shape.capacity, positive},
                 memory.begin, r.token, memory.work);
  b.for_each(r.shape.experts + 1, ExpertOffset<B>{memory.begin, r.shape.groups(), r.offset});
  b.for_each(memory.key.size, RowKeys<B>{memory.begin, tokens, r.token, memory.key, memory.value});
  b.sort_pairs(memory.key, memory.value, bits_for(tokens + 1), memory.work);
  b.for_each(tokens + 1, SegmentBegin<B>{memory.key, r.first});
  b.for_each(memory.key.size,
             PlaceChosen<B>{memory.key, memory.value, memory.begin, r.shape.groups(), r});
}

}  // namespace moxie::detail
