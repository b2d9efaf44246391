#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <string_view>

#include "moxie/core/view.hpp"

namespace vmoe {

using moxie::Index;

/// Every hyper-parameter of a run. The same names, with '_' for '-', are flags and keys of
/// configuration files; a value of 0 where it says "preset" takes the preset's.
struct Options {
  // data
  std::string data;
  double held_out = 0.1;
  Index channels = 0;
  // model
  std::string preset = "nano";
  Index patch = 0;
  Index width = 0;
  Index blocks = 0;
  Index heads = 0;
  Index hidden = 0;
  std::string pooling = "preset";
  std::string positions = "learned";
  std::string model = "vit";
  std::string image_expert = "vit";
  std::string resnet_widths = "16,32";
  Index resnet_blocks = 1;
  Index resnet_stem_stride = 2;
  std::string resnet_norm = "layer";
  // experts
  bool dense = false;
  std::string moe = "preset";
  Index experts = 8;
  Index k = 2;
  std::string router = "softmax_token_choice";
  bool renormalize = false;
  double noise = 1.0;
  std::string noise_kind = "gaussian";
  std::string combine = "softmax_noisy";
  double epsilon = 1;
  Index iterations = 20;
  bool plan_at_eval = true;
  bool fill_zero = true;
  Index expert_groups = 1;
  Index top_groups = 1;
  double bias_rate = 0;
  std::string gate = "linear";
  double jitter = 0;
  std::string capacity = "ceil";
  double capacity_factor = 1.05;
  Index slots = 0;
  double eval_capacity_factor = 0;
  Index capacity_multiple = 4;
  std::string priority = "first";
  std::string eval_priority;
  std::string overflow = "drop";
  Index group_images = 8;
  double importance = 0.005;
  double load = 0.005;
  std::string losses;
  std::string expert = "mlp";
  bool same_experts = false;
  Index shared_hidden = 0;
  bool residual = false;
  // consistency
  double prc = 0;
  std::string prc_form = "prc";
  std::string prc_diagonal = "matrix";
  double prc_lambda_d = 5e-3;
  double prc_lambda_o = 5e-2;
  std::string prc_layers;
  bool prc_class_pair = false;
  std::string prc_validity = "none";
  std::string prc_views = "light";
  double prc_jitter = 0;
  std::string prc_decay = "none";
  // robustness
  std::string objective = "supervised";
  std::string eps = "8/255";
  std::string attack_step = "2/255";
  Index attack_steps = 10;
  double beta = 6;
  std::string rt_er_experts = "second";
  std::string rt_er_delta = "own";
  bool detach_clean = false;
  bool corner_start = false;
  double alpha = 0.7;
  std::string dual_space = "logit";
  std::string upper_params = "both";
  std::string warm_standard;
  std::string warm_robust;
  // training
  double epochs = 30;
  Index batch = 128;
  std::string optimizer = "adamw";
  double learning_rate = 2e-3;
  double end_learning_rate = 1e-5;
  std::string schedule = "cosine";
  double warmup_epochs = 1;
  double cooldown_epochs = 0;
  double timescale = 10000;
  Index half_cycle = 500;
  double weight_decay = 0.05;
  double momentum = 0.9;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double clip = 1.0;
  std::string loss = "softmax";
  double label_smoothing = 0.1;
  double mixup = 0;
  Index crop_padding = 4;
  bool flip = true;
  std::uint64_t seed = 0;
  // running
  std::string out = "runs/vmoe";
  Index threads = 0;
  bool tf32 = false;
  Index log_every = 20;
  double eval_every = 1;
  Index checkpoint_every = 0;
  Index keep = 3;
  Index report_images = 12;
  Index robust_images = 0;
  Index robust_steps = 10;

  friend bool operator==(const Options&, const Options&) = default;
};

/// Whether a loss compares tokens of two views of an image: --prc asks for those.
bool needs_pairs(std::string_view loss);
/// The help of the option `losses`: all that there are by name, but for those.
const char* losses_help();

/// Calls f(group, name, member, help) for each option, in the order of the help text. Options of
/// the group `running` do not change the result of a run; a resumed run may have others.
template <class O, class F>
void visit_options(O& o, const F& f) {
  f("data", "data", o.data,
    "images: a folder or archive <split>/<class>/*.png|jpg, CIFAR binary files, or IDX files");
  f("data", "held_out", o.held_out,
    "share of each class kept for testing where the data has no test images");
  f("data", "channels", o.channels, "of the model; 0: as the data; 3: grey images become colour");
  f("model", "preset", o.preset, "nano, ti, s, b, l, h, vmoe-s, vmoe-b, vmoe-l, vmoe-h, prc-t");
  f("model", "patch", o.patch, "side of a patch in pixels; 0: the preset's");
  f("model", "width", o.width, "width of a token; 0: the preset's");
  f("model", "blocks", o.blocks, "transformer blocks; 0: the preset's");
  f("model", "heads", o.heads, "attention heads; 0: the preset's");
  f("model", "hidden", o.hidden, "hidden width of a perceptron and of an expert; 0: the preset's");
  f("model", "pooling", o.pooling, "preset, token, mean, map");
  f("model", "positions", o.positions, "learned, sincos2d, none");
  f("model", "model", o.model,
    "vit: a transformer with experts in its blocks; image_moe: a router of whole images, each "
    "expert a whole network (default then: experts 4, k 1)");
  f("model", "image_expert", o.image_expert,
    "of image_moe: vit (of the sizes above) or resnet (residual, convolutional)");
  f("model", "resnet_widths", o.resnet_widths, "of resnet: channels of the stages");
  f("model", "resnet_blocks", o.resnet_blocks, "of resnet: residual blocks a stage");
  f("model", "resnet_stem_stride", o.resnet_stem_stride, "of resnet: stride of the first layer");
  f("model", "resnet_norm", o.resnet_norm,
    "of resnet: layer, or none (its Lipschitz constant is then finite)");
  f("experts", "dense", o.dense,
    "the twin without experts: perceptrons of the same active FLOPs in their place");
  f("experts", "moe", o.moe,
    "blocks with experts: preset, none, last-N, every-N, last-odd-N, consecutive-N");
  f("experts", "experts", o.experts, "experts of a layer (E)");
  f("experts", "k", o.k,
    "experts of a token (K); where experts choose or slots are soft, the default capacity factor");
  f("experts", "router", o.router,
    "softmax_, sinkhorn_, sparse_ or sigmoid_token_choice; softmax_, sinkhorn_ or "
    "sparse_expert_choice; soft; hash; uniform");
  f("experts", "renormalize", o.renormalize, "combine weights of a token sum to 1");
  f("experts", "noise", o.noise,
    "scale of the router's noise in training, 0: none; default 1 for softmax and Sinkhorn, else 0");
  f("experts", "noise_kind", o.noise_kind, "gaussian (times 1/E), gaussian_absolute, gumbel");
  f("experts", "combine", o.combine,
    "what weighs the experts' results: softmax_noisy, softmax_clean, plan");
  f("experts", "epsilon", o.epsilon, "of Sinkhorn: entropic regularization");
  f("experts", "iterations", o.iterations, "of Sinkhorn and sparse routers");
  f("experts", "plan_at_eval", o.plan_at_eval,
    "of Sinkhorn: a plan in evaluation, too; false for image_moe, whose plans are over a batch");
  f("experts", "fill_zero", o.fill_zero,
    "of sparse_expert_choice: fill slots the plan leaves empty");
  f("experts", "expert_groups", o.expert_groups,
    "sigmoid_token_choice divides the experts into so many groups");
  f("experts", "top_groups", o.top_groups,
    "sigmoid_token_choice takes a token's experts from its so many best groups");
  f("experts", "bias_rate", o.bias_rate,
    "loss-free balancing of softmax_ and sigmoid_token_choice: step of the bias; 0: none");
  f("experts", "gate", o.gate, "linear, cosine");
  f("experts", "jitter", o.jitter, "the gate's input times U(1 - jitter, 1 + jitter) in training");
  f("experts", "capacity", o.capacity,
    "rule of the slots: ceil, round, floor, vmoe, deepspeed, megatron, megablocks, tutel, "
    "dropless");
  f("experts", "capacity_factor", o.capacity_factor,
    "slots of an expert in training, relative to balance; where experts choose or slots are soft "
    "the default is k");
  f("experts", "slots", o.slots,
    "slots of an expert, instead of --capacity-factor; 0: by the capacity's rule");
  f("experts", "eval_capacity_factor", o.eval_capacity_factor,
    "the same in evaluation; 0: nothing is dropped; where experts choose, as in training");
  f("experts", "capacity_multiple", o.capacity_multiple,
    "round capacity up to a multiple; default 1 for soft");
  f("experts", "priority", o.priority,
    "who gets the slots: first (lower token), bpr (larger gate), sum (of the gates), random");
  f("experts", "eval_priority", o.eval_priority,
    "who gets them in evaluation; default: as in training");
  f("experts", "overflow", o.overflow, "tokens without a slot: drop, next_choice, identity");
  f("experts", "group_images", o.group_images,
    "images whose tokens share one capacity; divides the batch; default 1 where experts choose or "
    "slots are soft");
  f("experts", "importance", o.importance,
    "weight of the importance loss; default 0 but for softmax_token_choice");
  f("experts", "load", o.load,
    "weight of the load loss (needs noise); default 0 but for softmax_token_choice");
  f("experts", "losses", o.losses, losses_help());
  f("experts", "expert", o.expert, "mlp, swiglu, geglu");
  f("experts", "same_experts", o.same_experts, "all experts of a layer start alike, as in V-MoE");
  f("experts", "shared_hidden", o.shared_hidden,
    "hidden units of a shared expert, which every token goes through beside its own; 0: none");
  f("experts", "residual", o.residual,
    "mix the experts with a perceptron as wide as one, in learned shares (Residual-MoE)");
  f("consistency", "prc", o.prc,
    "weight of Pairwise Router Consistency: two views of each image, both classified, and a loss "
    "where routes of what corresponds differ; 0: none. A step costs about as much as one of twice "
    "the batch: half of --batch and of --epochs costs the same");
  f("consistency", "prc_form", o.prc_form,
    "prc, l2, jsd, jsd_topk; with prc, the default of --importance and --load is 0");
  f("consistency", "prc_diagonal", o.prc_diagonal,
    "of prc: matrix (balances the experts by itself), position (the released code; does not)");
  f("consistency", "prc_lambda_d", o.prc_lambda_d, "of prc: weight of the diagonal, times --prc");
  f("consistency", "prc_lambda_o", o.prc_lambda_o,
    "of prc: weight of what is off the diagonal, times --prc");
  f("consistency", "prc_layers", o.prc_layers,
    "shares of --prc of the blocks with experts, the first one first, as 0.5,1; default: 1 each");
  f("consistency", "prc_class_pair", o.prc_class_pair,
    "the class tokens of both views are a pair (needs pooling by token)");
  f("consistency", "prc_validity", o.prc_validity,
    "patches that count: none (all that lie in both views), content (not what was padded in)");
  f("consistency", "prc_views", o.prc_views,
    "how views are made: light (--crop-padding and --flip), crop (60 to 100 % of the area, "
    "resized; flip), paper (5 to 100 %; flip; RandAugment(2, 10))");
  f("consistency", "prc_jitter", o.prc_jitter,
    "of the views: brightness, contrast and saturation times U(1 - jitter, 1 + jitter)");
  f("consistency", "prc_decay", o.prc_decay,
    "of the weight over training: none, linear, step (0 after half of it)");
  f("robustness", "objective", o.objective,
    "supervised, adversarial, trades, rt_er, or jtdmoe (a dual model of two image_moe, trained "
    "together)");
  f("robustness", "eps", o.eps,
    "largest change of a pixel in [0, 1] by the attack, in training and in --robust-images");
  f("robustness", "attack_step", o.attack_step, "of a pixel, in each step of the attack");
  f("robustness", "attack_steps", o.attack_steps, "of the attack (PGD) in training");
  f("robustness", "beta", o.beta, "of trades and rt_er: weight of the divergence");
  f("robustness", "rt_er_experts", o.rt_er_experts,
    "second (the one that the router ranks second), all (their sum), all_mean");
  f("robustness", "rt_er_delta", o.rt_er_delta,
    "own (an attack on each expert), shared (that on the whole model)");
  f("robustness", "detach_clean", o.detach_clean,
    "of rt_er: no gradient through the clean side of the divergence");
  f("robustness", "corner_start", o.corner_start,
    "of the attack: start as the released code does, at a corner instead of at random");
  f("robustness", "alpha", o.alpha, "of jtdmoe: weight of the robust model");
  f("robustness", "dual_space", o.dual_space, "what jtdmoe mixes: logit, log_probability");
  f("robustness", "upper_params", o.upper_params,
    "what the upper level of jtdmoe trains: both, or standard as the released code");
  f("robustness", "warm_standard", o.warm_standard,
    "checkpoint or run that the standard model of jtdmoe starts from");
  f("robustness", "warm_robust", o.warm_robust, "the same of the robust one");
  f("training", "epochs", o.epochs, "passes over the training images; need not be whole");
  f("training", "batch", o.batch, "images of a step; with --prc two inputs each");
  f("training", "optimizer", o.optimizer, "adamw, sgd");
  f("training", "learning_rate", o.learning_rate, "peak of the schedule");
  f("training", "end_learning_rate", o.end_learning_rate,
    "end of the schedule; of cyclic: where each cycle begins and ends");
  f("training", "schedule", o.schedule, "constant, linear, cosine, rsqrt, cyclic");
  f("training", "warmup_epochs", o.warmup_epochs,
    "epochs of linear warm-up, at most all; cyclic has none");
  f("training", "cooldown_epochs", o.cooldown_epochs, "of rsqrt: epochs of linear cool-down");
  f("training", "timescale", o.timescale, "of rsqrt: steps");
  f("training", "half_cycle", o.half_cycle,
    "of cyclic: steps up to the peak, and as many down again");
  f("training", "weight_decay", o.weight_decay, "of kernels, times the learning rate");
  f("training", "momentum", o.momentum, "of sgd");
  f("training", "beta1", o.beta1, "of adamw");
  f("training", "beta2", o.beta2, "of adamw");
  f("training", "clip", o.clip, "largest global norm of the gradients; 0: none");
  f("training", "loss", o.loss, "softmax, sigmoid");
  f("training", "label_smoothing", o.label_smoothing, "share of the label spread over all classes");
  f("training", "mixup", o.mixup, "concentration of mixup; 0: none");
  f("training", "crop_padding", o.crop_padding,
    "pixels of border before the random crop; 0: no crop");
  f("training", "flip", o.flip, "mirror images left to right, half of the time");
  f("training", "seed", o.seed, "of all randomness");
  f("running", "out", o.out, "folder of the run: metrics, checkpoints, report");
  f("running", "threads", o.threads, "worker threads; 0: all cores; no result depends on them");
  f("running", "tf32", o.tf32,
    "with --backend cuda: tensor cores multiply, which round factors to 10 bits of mantissa");
  f("running", "log_every", o.log_every, "steps between lines of metrics.jsonl");
  f("running", "eval_every", o.eval_every, "epochs between evaluations");
  f("running", "checkpoint_every", o.checkpoint_every, "steps between checkpoints; 0: each epoch");
  f("running", "keep", o.keep, "checkpoints that are kept");
  f("running", "report_images", o.report_images, "test images whose routes the report shows");
  f("running", "robust_images", o.robust_images,
    "test images that each evaluation also attacks (SA, RA, margins of the classes)");
  f("running", "robust_steps", o.robust_steps, "of that attack (PGD)");
}

/// More would be a mistake, which the system reports less clearly.
inline constexpr Index most_threads = 1024;

/// Those of the same model with each image in a group of its own: none takes the place of another.
Options in_groups_of_one(Options options);

/// Flat: one key for each option.
nlohmann::json to_json(const Options& options);

/// Names of options, with '_'.
using OptionNames = std::set<std::string, std::less<>>;

/// Sets the options that `values` names, and returns their names. `source` is named in errors.
/// @throws moxie::config_error for an unknown key (with the nearest valid one) or a value of the
/// wrong type
OptionNames apply_json(const nlohmann::json& values, std::string_view source, Options& options);

/// Reads a configuration file: a flat object of options, or a run's config.json.
/// @throws moxie::config_error if it cannot be read or is not JSON, and as apply_json
OptionNames apply_config_file(const std::string& path, Options& options);

/// Sets one option from the text of its flag.
/// @throws moxie::config_error naming flag, text and what was expected
void apply_flag(std::string_view name, const std::string& text, Options& options);

/// "--learning-rate" for "learning_rate".
std::string flag_of(std::string_view name);

/// A run goes on only with the options it has. `names` limits the comparison, if given; data is
/// compared by its fingerprint instead.
/// @throws moxie::config_error naming an option that changes results and differs
void require_same_run(const Options& own, const Options& other, std::string_view source,
                      const OptionNames* names = nullptr);

/// Checks the values that no library part looks at.
/// @throws moxie::config_error naming option, value, expectation
void check(const Options& options);

}  // namespace vmoe
