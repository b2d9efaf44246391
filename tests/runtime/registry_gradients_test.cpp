// Gradients, down to the input and every parameter, and the laws of Layer of everything that is
// chosen by name.
#include <doctest/doctest.h>

#include "moxie/runtime/any_regularizers.hpp"
#include "moxie/runtime/make_layer.hpp"
#include "runtime/made_layers.hpp"

using namespace moxie;
using namespace moxie::test;

namespace {

/// What a check looks at: groups of 4, training and evaluation. `shift` makes the experts differ.
template <class B>
void check_gradients(B& backend, MoeConfig c, Index samples = 12) {
  c.shape.group = 4;
  c.shape.seed = 5;
  CAPTURE(c.router.name);
  CAPTURE(c.expert.kind);
  CAPTURE(c.router.gate);
  const AnyLayer<B> layer = made_layer(backend, c);
  const test::Buffer<std::int32_t, B> pairs(backend, {0, 4, 1, 6, 2, 6, 3, 8, 7, 11});
  for (const Mode mode : {Mode::train, Mode::eval}) {
    testing::GradientOptions<B> options{
        .pass = {.mode = mode, .seed = 3, .step = 2, .pairs = pairs.view(5, 2)},
        .most_inputs = 2 * samples,
        .most_per_entry = samples,
        .row_multiple = 4};
    if constexpr (std::is_same_v<B, CpuBackend<double>>)
      options.allocations = [] { return static_cast<std::size_t>(allocations()); };
    const testing::GradientReport report = layer_gradients(layer, 12, options);
    CHECK_MESSAGE(report.passed, report.message);
  }
}
/// All losses that this router's routing has.
template <class B>
std::vector<RegularizerChoice> all_losses(const MoeConfig& c) {
  std::vector<RegularizerChoice> losses;
  const bool soft = c.router.name == "soft";
  const bool noisy = !soft && made_router<B>(c.router).noisy();
  for (const std::string_view name : regularizer_names) {
    if (!noisy && (name == NoisyLoad::name || name == TutelLoad::name)) continue;
    if (soft && (name == SwitchBalance::name || name == TopKBalance::name)) continue;
    losses.push_back({.name = std::string(name), .weight = 0.2});
  }
  return losses;
}
MoeConfig config_of(std::string_view router) {
  MoeConfig c = small_config(router);
  if (router != "soft") c.capacity.factor = 0.8;
  if (!chooses_tokens_or_mixes(router)) c.router.k = 2;
  return c;
}

}  // namespace

TEST_CASE_TEMPLATE("gradients of every router agree, with its losses and without", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  for (const std::string& router : all_routers<B>()) {
    MoeConfig c = config_of(router);
    check_gradients(backend, c);
    c.regularizers = all_losses<B>(c);
    check_gradients(backend, c);
    if (!takes_noise(router)) continue;
    c.router.noise = 0.7;
    c.regularizers = all_losses<B>(c);
    check_gradients(backend, c);
  }
}

TEST_CASE_TEMPLATE("gradients of every router's options agree", B, MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  const auto check = [&](const char* router, const auto& change) {
    MoeConfig c = config_of(router);
    change(c.router);
    c.regularizers = {{.name = "importance", .weight = 0.3}};
    check_gradients(backend, c);
  };
  for (const char* router : {"softmax_token_choice", "softmax_expert_choice",
                             "sinkhorn_token_choice", "sinkhorn_expert_choice"})
    check(router, [](RouterConfig& r) {
      r.noise = 0.7;
      r.combine_source = CombineSource::softmax_clean;
    });
  for (const char* kind : {"gaussian_absolute", "gumbel"})
    check("softmax_token_choice", [&](RouterConfig& r) {
      r.noise = 0.7;
      r.noise_kind = kind;
    });
  for (const char* router :
       {"softmax_token_choice", "sinkhorn_token_choice", "sparse_token_choice"})
    check(router, [](RouterConfig& r) { r.renormalize = true; });
  check("sigmoid_token_choice", [](RouterConfig& r) { r.renormalize = false; });
  check("sigmoid_token_choice", [](RouterConfig& r) {
    r.expert_groups = 3;
    r.top_groups = 2;
    r.scale = 2.5;
  });
  // The gradient through a plan is that of the fixed point.
  for (const char* router : {"sinkhorn_token_choice", "sinkhorn_expert_choice"})
    for (const bool at_eval : {true, false})
      check(router, [&](RouterConfig& r) {
        r.noise = 0.7;
        r.combine_source = CombineSource::plan;
        r.iterations = 2000;
        r.plan_at_eval = at_eval;
      });
  for (const bool fill : {true, false})
    check("sparse_expert_choice", [&](RouterConfig& r) {
      r.fill_zero = fill;
      r.quadratic = !fill;
    });
  check("soft", [](RouterConfig& r) { r.cosine = false; });
}

TEST_CASE_TEMPLATE("gradients of loss-free balancing agree: the bias is no parameter", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  for (const char* router : {"softmax_token_choice", "sigmoid_token_choice"}) {
    MoeConfig c = config_of(router);
    c.router.bias_rate = 0.01;
    c.regularizers = {{.name = "importance", .weight = 0.3}};
    check_gradients(backend, c);
  }
}

TEST_CASE_TEMPLATE("gradients of every expert and gate agree", B, MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  for (const char* router :
       {"softmax_token_choice", "softmax_expert_choice", "sinkhorn_token_choice"})
    for (const std::string_view expert : expert_names)
      for (const std::string_view gate : gate_names)
        for (const double jitter : {0.0, 0.1}) {
          MoeConfig c = config_of(router);
          c.router.gate = gate;
          c.router.jitter = jitter;
          c.expert.kind = expert;
          c.regularizers = {{.name = "importance", .weight = 0.3}};
          check_gradients(backend, c, 8);
        }
  MoeConfig c = config_of("soft");
  for (const char* expert : {"swiglu", "geglu"}) {
    c.expert.kind = expert;
    check_gradients(backend, c);
  }
  c = config_of("hash");
  c.expert = {.kind = "geglu", .hidden = 3, .same_experts = true};
  check_gradients(backend, c);
}

TEST_CASE_TEMPLATE("gradients agree under every priority and overflow policy", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  for (const std::string& router : router_names<B>()) {
    if (experts_choose(router)) continue;
    for (const std::string_view priority : priority_names) {
      // The sum of a sparse plan's k numbers is 1 for every token: rounding would order them.
      if (router == "sparse_token_choice" && priority == "sum") continue;
      for (const std::string_view overflow : overflow_names) {
        MoeConfig c = config_of(router);
        c.capacity.factor.reset();
        c.capacity.slots = 2;
        c.capacity.priority = priority;
        c.capacity.overflow = overflow;
        CAPTURE(priority);
        CAPTURE(overflow);
        check_gradients(backend, c, 6);
      }
    }
  }
}

TEST_CASE_TEMPLATE("gradients of blocks, shared experts and a residual layer agree", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  MoeConfig c = config_of("softmax_token_choice");
  c.router.k = 1;
  c.router.blocks = 3;
  c.router.noise = 0.7;
  check_gradients(backend, c);
  for (const char* router : {"softmax_token_choice", "softmax_expert_choice", "soft"}) {
    MoeConfig beside = config_of(router);
    beside.regularizers = {{.name = "importance", .weight = 0.3}};
    beside.shared = {.number = 2, .hidden = 3};
    check_gradients(backend, beside);
    beside.shared = {};
    beside.residual = true;
    check_gradients(backend, beside);
  }
}
