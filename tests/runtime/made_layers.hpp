#pragma once

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "device/allocations.hpp"
#include "moxie/layer/any_layer.hpp"
#include "moxie/layer/tape.hpp"
#include "moxie/runtime/any_router.hpp"
#include "moxie/runtime/moe_config.hpp"
#include "moxie/testing/gradcheck.hpp"
#include "moxie/testing/law_report.hpp"
#include "support/backends.hpp"
#include "support/errors.hpp"
#include "support/numbers.hpp"

/// Layers by name, as tests use them. What is chosen at run time is one type for a backend, which
/// takes long to compile: it is compiled once, in made_layers_*.cpp.
namespace moxie {
template <Backend B>
class RouterRegistry;
}
namespace moxie::testing {
struct RouterLawOptions;
}

namespace moxie::test {

/// make_layer as a model of its own, its parameters initialized.
template <class B>
AnyLayer<B> made_layer(B& backend, const MoeConfig& config);
/// The same with routers of one's own.
template <class B>
AnyLayer<B> made_layer(B& backend, const MoeConfig& config, const RouterRegistry<B>& registry);
/// RouterRegistry{}.make
template <class B>
AnyRouter<B> made_router(const RouterConfig& config);
/// RouterRegistry{}.names()
template <class B>
std::vector<std::string> router_names();
template <class B>
testing::GradientReport layer_gradients(const AnyLayer<B>& layer, Index rows,
                                        const testing::GradientOptions<B>& options);
template <class B>
testing::LawReport router_laws(B& backend, const AnyRouter<B>& router,
                               const testing::RouterLawOptions& options);

/// The smallest configuration that builds: 5 wide, 3 experts, H = 4.
inline MoeConfig small_config(std::string_view router) {
  MoeConfig c;
  c.shape = {.width = 5, .experts = 3, .group = 0};
  c.router.name = router;
  c.expert.hidden = 4;
  if (router == "soft") c.capacity.slots = 2;  // else they depend on the group
  return c;
}
/// All routers by name, the soft one included.
template <class B>
std::vector<std::string> all_routers() {
  std::vector<std::string> names = router_names<B>();
  names.emplace_back("soft");
  return names;
}
inline bool experts_choose(std::string_view router) {
  return router.find("expert_choice") != std::string_view::npos;
}
inline bool chooses_tokens_or_mixes(std::string_view router) {
  return experts_choose(router) || router == "soft";
}
/// The others are refused with it.
inline bool takes_noise(std::string_view router) {
  return router == "soft" || router.starts_with("softmax") || router.starts_with("sinkhorn");
}
/// Results of a token depend on the others of its group, even without a limit of capacity.
inline bool looks_at_group(std::string_view router) {
  return chooses_tokens_or_mixes(router) || router.starts_with("sinkhorn") ||
         router.starts_with("sparse");
}

/// Everything that one forward and backward of a layer give; of lists, what is filled.
template <class T>
struct Ran {
  std::vector<T> y, dx, gradients, losses;
  std::vector<T> logits, probs, weight;  // the weights of a soft router: combine, then dispatch
  std::vector<std::int32_t> choice, slot, row, first, offset, token;
  RoutingShape shape{};
  bool operator==(const Ran& o) const {
    return y == o.y && dx == o.dx && gradients == o.gradients && losses == o.losses &&
           logits == o.logits && probs == o.probs && weight == o.weight && choice == o.choice &&
           slot == o.slot && row == o.row && first == o.first && offset == o.offset &&
           token == o.token;
  }
};

/// Copies what a layer shows of its routing.
template <class B>
class SeenRouting final : public RoutingVisitor<B> {
 public:
  using T = typename B::Scalar;

  SeenRouting(B& b, Ran<T>& to) : backend_(b), to_(to) {}
  void sparse(const SparseRouting<B>& r) override {
    common(r);
    to_.weight = host(r.weight);
    to_.choice = host(r.choice);
    to_.slot = host(r.slot);
    to_.row = host(r.row);
    to_.offset = host(r.offset);
    to_.token = host(r.token);
    to_.token.resize(to_.offset.empty() ? 0 : static_cast<std::size_t>(to_.offset.back()));
    if (!r.first) return;
    to_.first = host(r.first);
    const auto filled = static_cast<std::size_t>(to_.first.back());
    to_.weight.resize(filled);
    for (auto* list : {&to_.choice, &to_.slot, &to_.row}) list->resize(filled);
  }
  void soft(const SoftRouting<B>& r) override {
    common(r);
    to_.weight = host(r.combine);
    for (const T v : host(r.dispatch)) to_.weight.push_back(v);
  }
  void losses(std::span<const std::string_view>, ConstVector<B> values) override {
    to_.losses = host(values);
  }

 private:
  template <class View>
  auto host(const View& v) {
    return testing::detail::to_host(backend_, v);
  }
  template <class Routing>
  void common(const Routing& r) {
    to_.shape = r.shape;
    to_.logits = host(r.logits);
    to_.probs = host(r.probs);
  }
  B& backend_;
  Ran<T>& to_;
};

/// A forward and a backward of `layer` on a tape of its own; gradients of parameters start at 0.
template <class B>
Ran<typename B::Scalar> run(const AnyLayer<B>& layer, const std::vector<double>& x,
                            const std::vector<double>& dy, const Pass<B>& pass = {}) {
  using T = typename B::Scalar;
  B& b = layer.parameters().backend();
  const Index in = layer.input_width();
  const Index out = layer.output_width();
  const Index tokens = static_cast<Index>(x.size()) / in;
  const testing::detail::OwnedMatrix<B> xs(b, tokens, in, x);
  const testing::detail::OwnedMatrix<B> dys(b, tokens, out, dy);
  const Buffer<T, B> ys(b, tokens * out, T(99));
  const Buffer<T, B> dxs(b, tokens * in, T(99));
  auto tape = make_tape(layer, tokens);
  layer.forward(xs.read(), ys.view(tokens, out), tape, pass);
  Ran<T> ran;
  SeenRouting<B> seen(b, ran);
  layer.visit_routing(tape, seen);
  layer.parameters().zero_gradients();
  layer.backward(dys.read(), dxs.view(tokens, in), tape);
  ran.y = ys.to_vector();
  ran.dx = dxs.to_vector();
  ran.gradients = testing::detail::to_host(b, ConstVector<B>(layer.parameters().gradients()));
  return ran;
}
template <class B>
Ran<typename B::Scalar> run(const AnyLayer<B>& layer, Index tokens, const Pass<B>& pass = {}) {
  return run(layer, normals(tokens * layer.input_width(), 1),
             normals(tokens * layer.output_width(), 2), pass);
}

template <class T>
bool all_finite(const std::vector<T>& v) {
  for (const T x : v)
    if (!math::is_finite(x)) return false;
  return true;
}

}  // namespace moxie::test
