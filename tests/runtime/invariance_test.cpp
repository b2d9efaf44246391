// What changes no bit, or only the order, of what a layer gives: the order of tokens, threads,
// other batches, padding.
#include <doctest/doctest.h>

#include "moxie/backend/thread_pool.hpp"
#include "runtime/rich_layers.hpp"

using namespace moxie;
using namespace moxie::test;
using testing::detail::all_near;
using testing::detail::Draw;

namespace {

template <class T>
std::vector<T> rows_at(const std::vector<T>& m, Index cols, const std::vector<Index>& order) {
  std::vector<T> out;
  for (const Index t : order)
    out.insert(out.end(), m.begin() + t * cols, m.begin() + (t + 1) * cols);
  return out;
}
std::vector<Index> range(Index first, Index last) {
  std::vector<Index> out;
  for (Index i = first; i < last; ++i) out.push_back(i);
  return out;
}

}  // namespace

TEST_CASE("permuting the tokens of a group permutes the result") {
  using B = CpuBackend<double>;
  B backend;
  for (const std::string& name : all_routers<B>()) {
    if (name == "hash" || name == "uniform") continue;  // route by place
    CAPTURE(name);
    MoeConfig c = rich_config(name);
    c.shape.group = 8;
    c.router.noise = 0;  // drawn by place
    if (name != "soft") c.capacity.factor = 0.8;
    if (!chooses_tokens_or_mixes(name)) c.capacity.priority = "bpr";
    const AnyLayer<B> layer = made_layer(backend, c);
    for (std::uint64_t seed = 0; seed < 30; ++seed) {
      Draw draw(seed);
      const std::vector<double> x = draw.normals(80);
      const std::vector<double> dy = draw.normals(80);
      std::vector<Index> order = draw.permutation(8);
      for (const Index t : draw.permutation(8)) order.push_back(8 + t);
      const auto plain = run(layer, x, dy);
      const auto permuted = run(layer, rows_at(x, 5, order), rows_at(dy, 5, order));
      CHECK(all_near(permuted.y, rows_at(plain.y, 5, order), 1e-9));
      CHECK(all_near(permuted.dx, rows_at(plain.dx, 5, order), 1e-9));
      CHECK(all_near(permuted.gradients, plain.gradients, 1e-9));
      CHECK(all_near(permuted.losses, plain.losses, 1e-12));
    }
  }
}

TEST_CASE_TEMPLATE("forward and backward give the same bits for 1, 2, 3 and 8 threads", T, float,
                   double) {
  using B = CpuBackend<T>;
  for (const std::string& name : all_routers<B>())
    for (const char* expert : {"mlp", "swiglu"}) {
      CAPTURE(name);
      MoeConfig c = rich_config(name);
      c.shape = {.width = 20, .experts = 7, .group = 96, .seed = 1};
      c.expert = {.kind = expert, .hidden = 9};
      if (!chooses_tokens_or_mixes(name)) {
        c.capacity.priority = "bpr";
        c.capacity.overflow = "next_choice";
      }
      const auto on = [&](int threads) {
        ThreadPool pool(threads);
        B backend(pool);
        return run(made_layer(backend, c), 480, {.seed = 4});
      };
      const auto one = on(1);
      for (const int threads : {2, 3, 8}) CHECK(on(threads) == one);
    }
}

TEST_CASE_TEMPLATE("splitting or reordering a batch changes no bit of a dropless token choice", B,
                   MOXIE_TEST_BACKENDS) {
  if constexpr (!B::batch_invariant) return;
  B backend = make_backend<B>();
  for (const std::string& name : token_choices<B>()) {
    if (looks_at_group(name)) continue;
    for (const char* expert : {"mlp", "swiglu"}) {
      CAPTURE(name);
      MoeConfig c = rich_config(name);
      c.shape.width = 20;
      c.shape.experts = 7;
      c.expert = {.kind = expert, .hidden = 9};
      c.capacity.rule = "dropless";
      c.regularizers = {};
      const Index tokens = 61;
      const std::vector<double> x = normals(tokens * 20, 1);
      const std::vector<double> dy = normals(tokens * 20, 2);
      const auto part = [&](const AnyLayer<B>& layer, Index first, Index last) {
        const std::vector<Index> rows = range(first, last);
        return run(layer, rows_at(x, 20, rows), rows_at(dy, 20, rows),
                   Pass<B>{.seed = 5, .step = 3, .first_token = first});
      };
      const AnyLayer<B> layer = made_layer(backend, c);
      const auto whole = part(layer, 0, tokens);
      for (const std::vector<Index>& cuts :
           {std::vector<Index>{0, 1, 61}, {0, 30, 61}, {0, 7, 8, 25, 60, 61}}) {
        Ran<typename B::Scalar> joined;
        for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
          const auto ran = part(layer, cuts[i], cuts[i + 1]);
          const auto append = [](auto& to, const auto& from) {
            to.insert(to.end(), from.begin(), from.end());
          };
          append(joined.y, ran.y);
          append(joined.dx, ran.dx);
          append(joined.choice, ran.choice);
          append(joined.weight, ran.weight);
        }
        CHECK(joined.y == whole.y);
        CHECK(joined.dx == whole.dx);
        CHECK(joined.choice == whole.choice);
        CHECK(joined.weight == whole.weight);
      }
      if (name == "hash" || name == "uniform") continue;  // route by place
      c.router.noise = 0;
      const AnyLayer<B> quiet = made_layer(backend, c);
      const auto in_order = part(quiet, 0, tokens);
      const std::vector<Index> order = Draw(8).permutation(tokens);
      const auto mixed =
          run(quiet, rows_at(x, 20, order), rows_at(dy, 20, order), Pass<B>{.seed = 5, .step = 3});
      CHECK(mixed.y == rows_at(in_order.y, 20, order));
      CHECK(mixed.dx == rows_at(in_order.dx, 20, order));
      CHECK(mixed.choice == rows_at(in_order.choice, 2, order));
    }
  }
}

TEST_CASE_TEMPLATE("what a masked token holds changes no bit of anything else", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const std::vector<std::int32_t> used{1, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0};
  const test::Buffer<std::int32_t, B> mask(backend, used);
  for (const std::string& name : all_routers<B>()) {
    CAPTURE(name);
    for (const char* overflow : {"drop", "next_choice", "identity"}) {
      if (chooses_tokens_or_mixes(name) && std::string_view(overflow) != "drop") continue;
      MoeConfig c = rich_config(name);
      c.shape.group = 6;
      if (name != "soft") c.capacity.factor = 0.8;  // it has a number of slots
      c.capacity.overflow = overflow;
      if (!chooses_tokens_or_mixes(name)) c.capacity.priority = "bpr";
      const AnyLayer<B> layer = made_layer(backend, c);
      std::vector<double> x = normals(90, 1);
      std::vector<double> dy = normals(90, 2);
      const Pass<B> pass{.seed = 3, .mask = mask.view()};
      const auto before = run(layer, x, dy, pass);
      for (std::size_t t = 0; t < 18; ++t) {
        if (used[t] != 0) continue;
        for (std::size_t d = 0; d < 5; ++d) {
          CHECK(before.y[t * 5 + d] == 0);
          CHECK(before.dx[t * 5 + d] == 0);
          x[t * 5 + d] = 30 - 20 * static_cast<double>(t + d);
          dy[t * 5 + d] = 1e3;
        }
        if (name != "soft")
          for_each_assignment(before, static_cast<Index>(t),
                              [&](std::size_t a) { CHECK(before.row[a] == -1); });
      }
      CHECK(all_finite(before.losses));
      CHECK(all_finite(before.gradients));
      auto after = run(layer, x, dy, pass);
      after.logits = before.logits;  // of masked tokens, these are their own
      after.probs = before.probs;
      CHECK(after == before);
    }
  }
}
