#include "moe_feed.hpp"

#include <algorithm>
#include <charconv>

#include "moxie/runtime/make_layer.hpp"
#include "router_defaults.hpp"

namespace vmoe {
namespace {

/// "router_z=0.001,switch_balance" and the like.
std::vector<moxie::RegularizerChoice> losses_of(const std::string& text) {
  std::vector<moxie::RegularizerChoice> out;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string item = text.substr(begin, end - begin);
    const std::size_t equals = std::min(item.find('='), item.size());
    moxie::RegularizerChoice choice{.name = item.substr(0, equals)};
    if (equals < item.size()) {
      double weight = 0;
      const char* const last = item.data() + item.size();
      const auto [stop, error] = std::from_chars(item.data() + equals + 1, last, weight);
      if (error != std::errc{} || stop != last)
        moxie::throw_config("vmoe: losses has '", item, "', expected NAME or NAME=WEIGHT");
      choice.weight = weight;
    }
    if (needs_pairs(choice.name))
      moxie::throw_config(
          "vmoe: losses has '", choice.name,
          "', which compares two views of an image; expected --prc (and --prc-form)");
    out.push_back(std::move(choice));
    begin = end + 1;
  }
  return out;
}

/// The loss of --prc.
moxie::RegularizerChoice consistency_of(const Options& o, const moxie::VitConfig& vit) {
  if (o.prc_class_pair && !vit.class_token())
    moxie::throw_config("vmoe: prc_class_pair is true, expected pooling by token with it");
  moxie::RegularizerChoice choice{
      .name = "pairwise_" + (o.prc_form == "prc" ? "consistency" : o.prc_form), .weight = o.prc};
  if (o.prc_decay == "linear") choice.decay = moxie::LossDecay::linear;
  if (o.prc_decay == "step") choice.decay = moxie::LossDecay::step;
  moxie::PairwiseConsistency& c = choice.consistency;
  c.diagonal = o.prc_lambda_d;
  c.off_diagonal = o.prc_lambda_o;
  if (o.prc_diagonal == "position") {
    c.form = moxie::ConsistencyDiagonal::position;
    c.tokens_per_image = vit.tokens();
    if (!o.prc_class_pair) c.positions = vit.grid().cells();
  }
  return choice;
}

/// The share of --prc that the experts of a block have.
double consistency_share(const Options& o, const moxie::VitConfig& vit, Index block) {
  if (o.prc_layers.empty()) return 1;
  std::vector<double> shares;
  const char* at = o.prc_layers.data();
  const char* const last = at + o.prc_layers.size();
  bool good = true;
  while (good) {
    const auto [stop, error] = std::from_chars(at, last, shares.emplace_back());
    good = error == std::errc{} && shares.back() >= 0 && shares.back() < 1e9;
    if (stop == last) break;
    good = good && *stop == ',';
    at = stop + 1;
  }
  if (!good || shares.size() != vit.moe_blocks.size())
    moxie::throw_config("vmoe: prc_layers is '", o.prc_layers, "', expected ",
                        vit.moe_blocks.size(), " numbers >= 0 with ',' between them, one for each ",
                        "block with experts");
  const auto found = std::find(vit.moe_blocks.begin(), vit.moe_blocks.end(), block);
  return shares[to_size(found - vit.moe_blocks.begin())];
}

moxie::CombineSource combine_of(const std::string& name) {
  if (name == "softmax_noisy") return moxie::CombineSource::softmax_noisy;
  if (name == "softmax_clean") return moxie::CombineSource::softmax_clean;
  if (name == "plan") return moxie::CombineSource::plan;
  moxie::throw_config("vmoe: combine is '", name,
                      "', expected softmax_noisy, softmax_clean or plan");
}

}  // namespace

moxie::MoeConfig moe_config(const Options& o, const moxie::VitConfig& vit) {
  moxie::MoeConfig c;
  c.shape = {.width = vit.width, .experts = o.experts, .group = o.group_images * vit.tokens()};
  c.router.name = o.router;
  c.router.k = o.k;
  if (o.renormalize) c.router.renormalize = true;
  c.router.noise = o.noise;
  c.router.noise_kind = o.noise_kind;
  c.router.combine_source = combine_of(o.combine);
  c.router.epsilon = o.epsilon;
  c.router.iterations = o.iterations;
  c.router.plan_at_eval = o.plan_at_eval;
  c.router.fill_zero = o.fill_zero;
  c.router.expert_groups = o.expert_groups;
  c.router.top_groups = o.top_groups;
  c.router.bias_rate = o.bias_rate;
  c.router.gate = o.gate;
  c.router.jitter = o.jitter;
  const bool rounded = o.capacity == "ceil" || o.capacity == "round" || o.capacity == "floor";
  if (o.slots != 0) {
    c.capacity.slots = o.slots;
  } else {
    c.capacity.rule = o.capacity;
    if (o.capacity != "dropless") c.capacity.factor = o.capacity_factor;
    if (rounded) c.capacity.multiple_of = o.capacity_multiple;
  }
  if (o.eval_capacity_factor > 0) {
    c.capacity.eval_rule = o.capacity;
    c.capacity.eval_factor = o.eval_capacity_factor;
    if (rounded) c.capacity.multiple_of = o.capacity_multiple;
  } else if (family_of(o) == RouterFamily::token_choice) {
    c.capacity.eval_rule = "dropless";
  }
  c.capacity.priority = o.priority;
  c.capacity.eval_priority = o.eval_priority;
  c.capacity.overflow = o.overflow;
  c.expert = {.kind = o.expert, .hidden = vit.hidden, .same_experts = o.same_experts};
  if (o.shared_hidden != 0) c.shared = {.number = 1, .hidden = o.shared_hidden};
  c.residual = o.residual;
  c.regularizers = losses_of(o.losses);
  if (o.importance > 0)
    c.regularizers.push_back(
        {.name = std::string(moxie::Importance::name), .weight = o.importance});
  if (o.load > 0)
    c.regularizers.push_back({.name = std::string(moxie::NoisyLoad::name), .weight = o.load});
  if (o.prc > 0) c.regularizers.push_back(consistency_of(o, vit));
  return c;
}

bool balances(const Options& o, const moxie::MoeConfig& config) {
  const auto balancing = [](const moxie::RegularizerChoice& loss) {
    return loss.name != moxie::RouterZ::name && loss.name != moxie::LocalEntropy::name &&
           !needs_pairs(loss.name);
  };
  // Plans give each expert its share, a uniform router draws it, and a hash does not learn.
  const bool learns = o.router == "softmax_token_choice" || o.router == "sigmoid_token_choice";
  return !learns || o.bias_rate > 0 ||
         std::any_of(config.regularizers.begin(), config.regularizers.end(), balancing);
}

Model make_moe_feed(const moxie::Scope<Backend>& scope, const Options& o,
                    const moxie::VitConfig& vit, Index block) {
  moxie::MoeConfig config = moe_config(o, vit);
  if (o.prc > 0)  // its loss is the last
    config.regularizers.back().weight = o.prc * consistency_share(o, vit, block);
  return moxie::make_layer(scope, config);
}

}  // namespace vmoe
