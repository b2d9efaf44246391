// Flags that have no effect beside others.
#include "vmoe/idle_flags.hpp"

#include <doctest/doctest.h>

#include <sstream>
#include <string>
#include <string_view>

#include "program.hpp"
#include "vmoe/router_defaults.hpp"

namespace idle_flags_test {
namespace {

using namespace cli;
using fixtures::Containing;

/// What is said of flags as "router=soft k=2"; empty: they are accepted.
std::string said(const std::string& flags) {
  vmoe::Options options;
  vmoe::OptionNames typed;
  std::istringstream words(flags);
  for (std::string word; words >> word;) {
    const std::size_t equals = word.find('=');
    REQUIRE(equals != std::string::npos);
    const std::string name = word.substr(0, equals);
    vmoe::apply_flag(name, word.substr(equals + 1), options);
    typed.insert(name);
  }
  vmoe::take_router_defaults(options, typed);
  try {
    vmoe::refuse_idle_flags(options, typed);
  } catch (const moxie::config_error& e) {
    return e.what();
  }
  return {};
}

struct Case {
  const char* flags;
  const char* error;  ///< behind "vmoe: --"
};

/// Of an option: another value than the default.
const char* another(const bool& value) { return value ? "false" : "true"; }
const char* another(const auto& /*value*/) { return "1"; }

}  // namespace

TEST_CASE("a flag that has no effect beside others is refused with the reason") {
  const std::string resnet = "model=image_moe image_expert=resnet ";
  const Case cases[] = {
      // models
      {"image_expert=vit", "image-expert has no effect beside --model vit"},
      {"resnet_widths=8,16", "resnet-widths has no effect beside --model vit"},
      {"resnet_blocks=2", "resnet-blocks has no effect beside --model vit"},
      {"model=image_moe resnet_stem_stride=1",
       "resnet-stem-stride has no effect beside --image-expert vit"},
      {"model=image_moe image_expert=vit resnet_norm=none",
       "resnet-norm has no effect beside --image-expert vit"},
      {"model=image_moe moe=last-2", "moe has no effect beside --model image_moe"},
      {"model=image_moe expert=swiglu", "expert has no effect beside --model image_moe"},
      {"model=image_moe same_experts=true", "same-experts has no effect beside --model image_moe"},
      {"model=image_moe capacity=ceil", "capacity has no effect beside --model image_moe"},
      {"model=image_moe capacity_factor=2",
       "capacity-factor has no effect beside --model image_moe"},
      {"model=image_moe slots=2", "slots has no effect beside --model image_moe"},
      {"model=image_moe overflow=identity", "overflow has no effect beside --model image_moe"},
      {"model=image_moe group_images=8", "group-images has no effect beside --model image_moe"},
      // routers
      {"epsilon=2", "epsilon has no effect beside --router softmax_token_choice"},
      {"router=sparse_token_choice plan_at_eval=false",
       "plan-at-eval has no effect beside --router sparse_token_choice"},
      {"router=soft iterations=5", "iterations has no effect beside --router soft"},
      {"router=sparse_token_choice fill_zero=false",
       "fill-zero has no effect beside --router sparse_token_choice"},
      {"expert_groups=2", "expert-groups has no effect beside --router softmax_token_choice"},
      {"router=hash top_groups=2", "top-groups has no effect beside --router hash"},
      {"router=sigmoid_token_choice combine=softmax_clean",
       "combine has no effect beside --router sigmoid_token_choice"},
      {"router=sigmoid_token_choice renormalize=false",
       "renormalize has no effect beside --router sigmoid_token_choice, whose weights sum to 1"},
      {"noise=0 noise_kind=gumbel", "noise-kind has no effect beside --noise 0"},
      {"router=uniform noise_kind=gumbel", "noise-kind has no effect beside --noise 0"},
      // slots
      {"slots=3 capacity=floor",
       "capacity has no effect beside --slots 3 without --eval-capacity-factor"},
      {"slots=3 capacity_multiple=2",
       "capacity-multiple has no effect beside --slots 3 without --eval-capacity-factor"},
      {"slots=3 capacity_factor=2",
       "capacity-factor is 2, but --slots gives the slots of an expert; expected one of the two"},
      {"capacity=dropless capacity_factor=2",
       "capacity-factor is 2, but --capacity dropless has no factor; expected one of the two"},
      {"capacity=dropless priority=bpr", "priority has no effect beside --capacity dropless"},
      {"capacity=dropless overflow=identity", "overflow has no effect beside --capacity dropless"},
      {"capacity=dropless capacity_multiple=8",
       "capacity-multiple has no effect beside --capacity dropless"},
      {"capacity=tutel capacity_multiple=8",
       "capacity-multiple has no effect beside --capacity tutel"},
      {"eval_priority=bpr", "eval-priority has no effect without --eval-capacity-factor"},
      {"router=softmax_expert_choice k=2 slots=3",
       "k is 2, but where experts choose, k is the default of --capacity-factor only"},
      // consistency
      {"prc=1 prc_form=l2 prc_lambda_d=1", "prc-lambda-d has no effect beside --prc-form l2"},
      {"prc=1 prc_form=jsd prc_diagonal=matrix",
       "prc-diagonal has no effect beside --prc-form jsd"},
      {"prc=1 prc_views=crop crop_padding=2", "crop-padding has no effect beside --prc-views crop"},
      // robustness
      {"eps=4/255", "eps has no effect beside --objective supervised without --robust-images N"},
      {"attack_step=1/255 robust_images=0",
       "attack-step has no effect beside --objective supervised without --robust-images N"},
      {"robust_images=8 attack_steps=3",
       "attack-steps has no effect beside --objective supervised"},
      {"objective=rt_er robust_steps=3", "robust-steps has no effect without --robust-images N"},
      {"objective=adversarial beta=1", "beta has no effect beside --objective adversarial"},
      {"objective=trades rt_er_experts=all",
       "rt-er-experts has no effect beside --objective trades"},
      {"objective=trades rt_er_delta=own", "rt-er-delta has no effect beside --objective trades"},
      {"objective=rt_er alpha=0.5", "alpha has no effect beside --objective rt_er"},
      // training
      {"momentum=0.5", "momentum has no effect beside --optimizer adamw"},
      {"optimizer=sgd beta1=0.5", "beta1 has no effect beside --optimizer sgd"},
      {"optimizer=sgd beta2=0.5", "beta2 has no effect beside --optimizer sgd"},
      {"schedule=constant end_learning_rate=0",
       "end-learning-rate has no effect beside --schedule constant"},
      {"schedule=rsqrt end_learning_rate=0",
       "end-learning-rate has no effect beside --schedule rsqrt"},
      {"cooldown_epochs=1", "cooldown-epochs has no effect beside --schedule cosine"},
      {"schedule=linear timescale=9", "timescale has no effect beside --schedule linear"},
      {"schedule=cyclic timescale=9", "timescale has no effect beside --schedule cyclic"},
      {"schedule=cyclic warmup_epochs=0", "warmup-epochs has no effect beside --schedule cyclic"},
      {"half_cycle=9", "half-cycle has no effect beside --schedule cosine"},
  };
  for (const Case& c : cases) {
    CAPTURE(c.flags);
    CHECK(said(c.flags).starts_with(std::string("vmoe: --").append(c.error)));
  }
  for (const char* size : {"preset=b", "patch=8", "width=8", "blocks=2", "heads=2", "hidden=8",
                           "pooling=mean", "positions=none"}) {
    CAPTURE(size);
    CHECK(said(resnet + size) == Containing("has no effect beside --image-expert resnet"));
    CHECK(said(std::string("model=image_moe ").append(size)).empty());
  }
}

TEST_CASE("all flags of two views, and of attacks, are refused where there are none") {
  const vmoe::Options defaults;
  vmoe::visit_options(defaults, [](std::string_view group, const char* name, const auto& member,
                                   const char*) {
    const std::string_view key = name;
    const bool pairs = group == "consistency" && key != "prc";
    // those of warm starts are refused as options, whoever gave them
    const bool robust = group == "robustness" && key != "objective" && !key.starts_with("warm_");
    const bool attacks = robust || key == "robust_steps";
    if (!pairs && !attacks) return;
    CAPTURE(key);
    CHECK(said(std::string(name).append("=").append(another(member))) ==
          Containing(vmoe::flag_of(name) + " has no effect " +
                     (pairs                   ? "without --prc WEIGHT"
                      : key == "robust_steps" ? "without --robust-images N"
                                              : "beside --objective supervised")));
  });
}

TEST_CASE("flags that have an effect, and names that there are not, are let through") {
  for (const char* flags : {
           // the demonstration, the studies, the tests on a device
           "preset=nano epochs=19 batch=32 learning_rate=1e-3 label_smoothing=0 capacity_factor=2",
           "preset=nano moe=none capacity_factor=2",
           "dense=true router=softmax_expert_choice capacity_factor=2 experts=8",
           "router=softmax_token_choice capacity_factor=1 eval_capacity_factor=1 "
           "capacity_multiple=1 group_images=1 importance=0.005 load=0.005 noise=1 k=2",
           "router=soft capacity_factor=2 eval_capacity_factor=2 capacity_multiple=1 "
           "group_images=1 importance=0 load=0 noise=0",
           "router=sparse_expert_choice capacity_factor=2 eval_capacity_factor=2 "
           "capacity_multiple=1 group_images=1 importance=0 load=0 noise=0",
           "importance=0.005 load=0.005",
           "importance=0 load=0 prc=1 prc_diagonal=position prc_lambda_d=0.1 prc_lambda_o=0.1",
           "model=image_moe image_expert=resnet resnet_widths=8,16 resnet_norm=none "
           "resnet_stem_stride=2 experts=4 k=1 objective=supervised eps=8/255 attack_step=2/255 "
           "robust_images=192",
           "model=image_moe image_expert=resnet objective=jtdmoe eps=8/255 attack_step=2/255 "
           "robust_images=192 robust_steps=5 alpha=0.7 beta=6 rt_er_experts=all",
           "model=image_moe image_expert=resnet objective=rt_er eps=8/255 attack_steps=10",
           "model=image_moe objective=jtdmoe warm_standard=S warm_robust=R",
           // what else comes near
           "router=sinkhorn_token_choice epsilon=2 iterations=5 plan_at_eval=false combine=plan "
           "noise_kind=gumbel renormalize=true",
           "router=sparse_expert_choice iterations=5 fill_zero=false",
           "router=sigmoid_token_choice expert_groups=4 top_groups=2",
           "slots=3 capacity=floor capacity_multiple=2 eval_capacity_factor=1 eval_priority=bpr",
           "slots=3 priority=bpr overflow=identity",
           "prc=1 prc_views=paper prc_jitter=0.1 flip=true",
           "prc=1 crop_padding=2",
           "optimizer=sgd momentum=0.5 schedule=rsqrt cooldown_epochs=1 timescale=9",
           "schedule=linear end_learning_rate=0 beta1=0.5",
           "schedule=cyclic end_learning_rate=5e-5 half_cycle=9",
           // errors of their own, later
           "router=sinkhorn epsilon=2",
           "optimizer=adam momentum=0.5",
           "schedule=cosinus timescale=9",
           "model=resnet resnet_blocks=2",
           "prc=1 prc_views=dark crop_padding=1",
       }) {
    CAPTURE(flags);
    CHECK(said(flags).empty());
  }
}

TEST_CASE("the trainer refuses an idle flag that is typed, not one of a configuration file") {
  const fixtures::TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const Arguments all = train(data, folder / "run");
  const Ending ending = run(all + Arguments{"--momentum", "0.5"});
  CHECK(ending.code == 2);
  CHECK(ending.err == Containing("vmoe: --momentum has no effect beside --optimizer adamw"));
  CHECK_FALSE(std::filesystem::exists(folder / "run"));
  const std::string text = R"({"momentum": 0.5})";
  fixtures::write_file(folder / "c.json", {text.begin(), text.end()});
  CHECK(run(all + Arguments{"--config", folder / "c.json", "--epochs", "0.5"}).code == 0);
}

TEST_CASE("residual experts take images of which the preset's patches are no whole number") {
  const fixtures::TemporaryFolder folder;
  const auto data = write_images(folder / "data");  // 8 pixels, patches of 16
  const Arguments all{"train",
                      "--data",
                      data,
                      "--out",
                      folder / "run",
                      "--config",
                      folder / "c.json",
                      "--model",
                      "image_moe",
                      "--image-expert",
                      "resnet",
                      "--resnet-widths",
                      "4",
                      "--experts",
                      "2",
                      "--batch",
                      "16",
                      "--epochs",
                      "0.5"};
  const std::string text = R"({"preset": "b"})";
  fixtures::write_file(folder / "c.json", {text.begin(), text.end()});
  const Ending ending = run(all);
  CHECK_MESSAGE(ending.code == 0, ending.err);
}

}  // namespace idle_flags_test
