// vmoe train with robust objectives and mixtures of whole networks, and vmoe dual.
#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "program.hpp"

using namespace cli;
using fixtures::Containing;
using fixtures::TemporaryFolder;
using nlohmann::json;
namespace fs = std::filesystem;

TEST_CASE("robust objectives train, and a run that stopped goes on bit for bit") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  for (const char* objective : {"adversarial", "trades", "rt_er", "jtdmoe"}) {
    CAPTURE(objective);
    const auto whole = folder / (std::string(objective) + "-whole");
    const auto stopped = folder / (std::string(objective) + "-stopped");
    const Ending ending = run(train_mixture(data, whole, objective));
    REQUIRE_MESSAGE(ending.code == 0, ending.err);
    REQUIRE(run(train_mixture(data, stopped, objective) +
                Arguments{"--checkpoint-every", "2", "--threads", "2"})
                .code == 0);
    // As if it had been killed behind its second step
    std::set<fs::path> later;
    for (const auto& entry : fs::directory_iterator(stopped / "checkpoint"))
      if (entry.path().filename() > "step-00000002.safetensors") later.insert(entry.path());
    CHECK(!later.empty());
    for (const fs::path& file : later) fs::remove(file);
    const Ending resumed = run({"train", "--resume", stopped, "--threads", "1"});
    REQUIRE_MESSAGE(resumed.code == 0, resumed.err);
    CHECK(resumed.out == Containing("resuming at step 2 of"));
    CHECK(tensors(newest_checkpoint(stopped)) == tensors(newest_checkpoint(whole)));
    CHECK(timeless(stopped) == timeless(whole));

    const json last = metrics(whole, "final").at(0).at("robust");
    CHECK(last.at("images") == 12);
    CHECK(last.at("ra") <= last.at("sa"));
    CHECK(last.at("margins").size() == 3);
    CHECK(last.contains("standard") == (std::string(objective) == "jtdmoe"));
    const json train = metrics(whole, "train").at(0);
    CHECK(train.at("aux_losses").contains("divergence") ==
          (std::string(objective) != "adversarial"));
    // Regularizers of both levels
    double regularizers = 0;
    for (const char* name : {"importance", "load", "lower importance", "lower load"})
      regularizers += train.at("aux_losses").value(name, 0.0);
    CHECK(train.at("aux_loss").get<double>() == doctest::Approx(regularizers));
    CHECK(train.at("aux_losses").contains("lower importance") ==
          (std::string(objective) == "jtdmoe"));
    CHECK(run({"eval", whole}).code == 0);
  }
}

TEST_CASE("a transformer trains by RT-ER on the second experts of its tokens") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const Ending ending =
      run(train(data, folder / "run") +
          Arguments{"--objective", "rt_er", "--attack-steps", "1", "--epochs", "1"});
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  CHECK(metrics(folder / "run", "train").at(0).at("aux_losses").contains("divergence"));
}

TEST_CASE("two models become a dual one, which is swept, saved, and starts joint training") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto standard = folder / "standard", hard = folder / "robust", joint = folder / "joint";
  REQUIRE(run(train_mixture(data, standard, "supervised")).code == 0);
  REQUIRE(run(train_mixture(data, hard, "rt_er")).code == 0);
  const Ending swept = run({"dual", standard, hard, "--alphas", "0,0.5,1", "--steps", "2", "--csv",
                            folder / "sweep.csv", "--json", folder / "sweep.json", "--out",
                            folder / "dual.safetensors", "--alpha", "0.5"});
  REQUIRE_MESSAGE(swept.code == 0, swept.err);
  const std::string csv = read_file(folder / "sweep.csv");
  CHECK(csv.starts_with("alpha,images,sa,ra\n0,15,"));
  CHECK(std::count(csv.begin(), csv.end(), '\n') == 4);
  const json points = json::parse(read_file(folder / "sweep.json")).at("points");
  // The ends are the two models
  const auto accuracy = [](const fs::path& run) {
    return 100 * metrics(run, "final").at(0).at("accuracy").get<double>();
  };
  CHECK(points.at(0).at("sa").get<double>() == doctest::Approx(accuracy(standard)));
  CHECK(points.at(2).at("sa").get<double>() == doctest::Approx(accuracy(hard)));
  // The file is a model like any other
  const Ending again = run({"dual", folder / "dual.safetensors", "--alphas", "0.5", "--steps", "2",
                            "--json", folder / "again.json"});
  REQUIRE_MESSAGE(again.code == 0, again.err);
  CHECK(json::parse(read_file(folder / "again.json")).at("points").at(0) == points.at(1));
  CHECK(run({"eval", folder / "dual.safetensors"}).code == 0);

  const Ending warm = run(train_mixture(data, joint, "jtdmoe") +
                          Arguments{"--warm-standard", standard, "--warm-robust", hard,
                                    "--learning-rate", "1e-9", "--end-learning-rate", "0"});
  REQUIRE_MESSAGE(warm.code == 0, warm.err);
  const json end = metrics(joint, "final").at(0).at("robust");
  CHECK(end.at("standard").at("sa") == metrics(standard, "final").at(0).at("robust").at("sa"));
  CHECK(end.at("robust").at("sa") == metrics(hard, "final").at(0).at("robust").at("sa"));

  // What is saved mixes as what was swept, and is swept so again
  const auto space_of = [&](const Arguments& arguments) {
    const Ending ending =
        run(Arguments{"dual", "--alphas", "0.5", "--steps", "1", "--json", folder / "space.json"} +
            arguments);
    REQUIRE_MESSAGE(ending.code == 0, ending.err);
    return json::parse(read_file(folder / "space.json")).at("space");
  };
  const auto mixed = folder / "mixed.safetensors";
  CHECK(space_of({standard, hard, "--space", "probability", "--out", mixed}) == "log_probability");
  CHECK(space_of({mixed}) == "log_probability");
  CHECK(space_of({mixed, "--space", "logit"}) == "logit");
  CHECK(space_of({standard, hard}) == "logit");

  const auto refused = [](const Arguments& arguments) {
    const Ending ending = run(arguments);
    CHECK(ending.code == 2);
    return ending.err;
  };
  CHECK(refused({"dual", standard}) ==
        Containing("is one model, expected a dual model or the path of a robust one"));
  CHECK(refused({"dual", joint, "--out", folder / "again.safetensors"}) ==
        Containing("is all that came, and is a checkpoint already; expected two models"));
  CHECK(refused({"dual", joint, "--alpha", "0.5"}) ==
        Containing("--alpha is 0.5, the weight in the checkpoint of --out FILE, expected both"));
  CHECK(refused({"dual", standard, hard, "--space", "probit"}) ==
        Containing("space is 'probit', expected one of: logit, probability, log_probability"));
  // Two choices an image leave no trace in shapes
  const auto other = folder / "other";
  REQUIRE(
      run(train_mixture(data, other, "supervised") + Arguments{"--k", "2", "--epochs", "1"}).code ==
      0);
  const std::string file = newest_checkpoint(other);
  CHECK(refused({"dual", other, hard}) ==
        Containing("k of '" + file + "' is 2, but '" + newest_checkpoint(hard).string() +
                   "' has 1, expected the same of both models"));
  CHECK(refused(train_mixture(data, folder / "cold", "jtdmoe") +
                Arguments{"--warm-standard", other}) ==
        Containing("k of '" + file + "' is 2, but this run has 1"));
}

TEST_CASE("options of robust training that make no sense are refused") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto said = [&](const Arguments& more) {
    const Ending ending = run(train_mixture(data, folder / "run", "rt_er") + more);
    CHECK(ending.code == 2);
    return ending.err;
  };
  CHECK(said({"--objective", "hard"}) ==
        Containing("objective is 'hard', expected one of: supervised, adversarial, trades, rt_er, "
                   "jtdmoe"));
  CHECK(said({"--eps", "8/0"}) ==
        Containing("eps is '8/0', expected a number at least 0, or a fraction such as 8/255"));
  CHECK(said({"--eps", "8/inf"}) == Containing("eps is '8/inf', expected a number at least 0"));
  const std::string most =
      "', expected at most 1, for pixels are from 0 to 1 (a fraction such as 8/255)";
  CHECK(said({"--eps", "8"}) == Containing("eps is '8" + most));
  CHECK(said({"--attack-step", "510/255"}) == Containing("attack_step is '510/255" + most));
  for (const char* objective : {"adversarial", "trades", "rt_er", "jtdmoe"}) {
    CHECK(said({"--objective", objective, "--attack-steps", "0"}) ==
          Containing("attack_steps is 0, expected at least 1 beside an objective that attacks"));
    CHECK(said({"--objective", objective, "--attack-step", "0/255"}) ==
          Containing("attack_step is '0/255', expected more than 0 where images are attacked"));
  }
  CHECK(run(train(data, folder / "run") + Arguments{"--robust-images", "4", "--attack-step", "0"})
            .err == Containing("attack_step is '0', expected more than 0"));
  for (const char* list : {"--radii", "--alphas"})
    CHECK(run({"dual", folder / "a", folder / "b", list, ""}).err ==
          Containing(std::string("vmoe: ") + list + " is '', expected numbers"));
  for (const std::string flag : {"--eps", "--step-size", "--radii"}) {
    const Ending swept = run({"dual", folder / "a", folder / "b", flag, "8"});
    CHECK(swept.code == 2);
    CHECK(swept.err == Containing("vmoe: " + flag + " is '8" + most));
  }
  CHECK(said({"--rt-er-experts", "third"}) ==
        Containing("rt_er_experts is 'third', expected one of: second, all, all_mean"));
  CHECK(said({"--mixup", "0.2"}) ==
        Containing("mixup is 0.2, expected 0 beside an objective that attacks"));
  CHECK(said({"--objective", "jtdmoe", "--alpha", "2"}) ==
        Containing("alpha is 2, expected 0 to 1"));
  CHECK(said({"--objective", "supervised"}) ==
        Containing("--attack-steps has no effect beside --objective supervised"));
  CHECK(said({"--objective", "adversarial", "--beta", "2"}) ==
        Containing("--beta has no effect beside --objective adversarial"));
  CHECK(said({"--objective", "trades", "--detach-clean"}) ==
        Containing("--detach-clean has no effect beside --objective trades"));
  CHECK(said({"--dual-space", "logit"}) ==
        Containing("--dual-space has no effect beside --objective rt_er"));
  CHECK(run(train(data, folder / "run") + Arguments{"--router", "soft", "--robust-images", "4"})
            .err == Containing("robust_images is 4, expected 0 where soft experts have slots"));
  CHECK(said({"--resnet-widths", "8,"}) == Containing("resnet_widths is '8,', expected channels"));
  CHECK(said({"--warm-robust", "x"}) == Containing("expected jtdmoe beside warm_standard"));
  CHECK(run(train(data, folder / "run") + Arguments{"--objective", "jtdmoe"}).err ==
        Containing("model is 'vit', expected image_moe beside objective 'jtdmoe'"));
}

TEST_CASE("a second expert that there is not is refused before anything is written") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto said = [&](const Arguments& arguments) {
    const Ending ending = run(arguments);
    CHECK(ending.code == 2);
    CHECK(ending.out.empty());
    CHECK_FALSE(fs::exists(folder / "run"));
    return ending.err;
  };
  const std::string why = "experts is 1, expected at least 2: ";
  for (const std::string objective : {"rt_er", "jtdmoe"})
    CHECK(said(train_mixture(data, folder / "run", objective) + Arguments{"--experts", "1"}) ==
          Containing(why + objective + " trains the expert that comes second"));
  const Arguments transformer = train(data, folder / "run") + Arguments{"--objective", "rt_er"};
  CHECK(said(transformer + Arguments{"--experts", "1", "--k", "1"}) == Containing(why));
  for (const std::string router : {"hash", "uniform", "soft", "softmax_expert_choice"})
    CHECK(said(train(data, folder / "run") +
               Arguments{"--objective", "rt_er", "--group-images", "1", "--router", router}) ==
          Containing("router is '" + router + "', by which no expert of a token comes second"));
  // Without the divergence, or with that of all experts, there is no need of one
  for (const Arguments& other : {Arguments{"--beta", "0"}, Arguments{"--rt-er-experts", "all"}}) {
    const Ending without = run(train_mixture(data, folder / other.back(), "rt_er") +
                               Arguments{"--experts", "1"} + other);
    CHECK_MESSAGE(without.code == 0, without.err);
  }
}

TEST_CASE("routers of whole images let none decide for another") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  for (const std::string router :
       {"soft", "softmax_expert_choice", "sinkhorn_expert_choice", "sparse_expert_choice",
        "sparse_token_choice", "hash", "uniform"}) {
    CAPTURE(router);
    const Ending ending =
        run(train_mixture(data, folder / "none", "supervised") + Arguments{"--router", router});
    CHECK(ending.code == 2);
    CHECK(ending.err ==
          Containing("router is '" + router +
                     "', expected one of: softmax_token_choice, sinkhorn_token_choice, "
                     "sigmoid_token_choice beside model 'image_moe'"));
  }
  CHECK(run(train_mixture(data, folder / "none", "supervised") +
            Arguments{"--router", "sinkhorn_token_choice", "--plan-at-eval"})
            .err == Containing("plan_at_eval is true, expected false beside model 'image_moe'"));
  const auto out = folder / "run";
  const Ending trained =
      run(train_mixture(data, out, "rt_er") + Arguments{"--router", "sinkhorn_token_choice"});
  REQUIRE_MESSAGE(trained.code == 0, trained.err);
  CHECK(config_of(out).at("options").at("plan_at_eval") == false);
  // Neighbours have no say: alone in a batch, an image falls or stands as among others
  const auto figures = [&](const char* batch) {
    const Ending ending = run({"attack", out, "--attack", "pgd", "--steps", "3", "--n", "15",
                               "--batch", batch, "--json", folder / "attack.json"});
    REQUIRE_MESSAGE(ending.code == 0, ending.err);
    json all = json::parse(read_file(folder / "attack.json"));
    all.erase("seconds");
    return all;
  };
  CHECK(figures("1") == figures("15"));
}

TEST_CASE("a cyclic learning rate goes up and down by half cycles") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const Arguments cyclic =
      train_mixture(data, folder / "run", "supervised") +
      Arguments{"--schedule", "cyclic", "--learning-rate", "1e-3", "--end-learning-rate", "5e-4"};
  const Ending ending = run(cyclic + Arguments{"--half-cycle", "2", "--log-every", "1"});
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  std::vector<double> rates;
  for (const json& line : metrics(folder / "run", "train"))
    rates.push_back(line.at("learning_rate").get<double>());
  CHECK(rates == std::vector<double>{5e-4, 7.5e-4, 1e-3, 7.5e-4, 5e-4, 7.5e-4});
  CHECK(run(cyclic + Arguments{"--half-cycle", "0"}).err ==
        Containing("half_cycle is 0, expected >= 1"));
}

TEST_CASE("the released code's router can be had: it stays as it was drawn") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const Arguments still = Arguments{"--k", "1", "--renormalize", "--weight-decay", "0"} +
                          Arguments{"--importance", "0", "--load", "0", "--noise", "0"};
  const auto routers = [&](const std::string& name, const std::string& objective,
                           const Arguments& more) {
    const auto out = folder / name;
    const Ending ending = run(train_mixture(data, out, objective) +
                              Arguments{"--checkpoint-every", "1", "--keep", "9"} + more);
    REQUIRE_MESSAGE(ending.code == 0, ending.err);
    std::map<std::string, std::set<std::string>> seen;
    for (const auto& entry : fs::directory_iterator(out / "checkpoint"))
      for (const auto& [tensor, bytes] : tensors(entry.path()))
        if (tensor.ends_with("Router/kernel") && tensor[0] != '@') seen[tensor].insert(bytes);
    std::vector<std::size_t> different;
    for (const auto& [tensor, values] : seen) different.push_back(values.size());
    return different;
  };
  CHECK(routers("rt_er", "rt_er", still) == std::vector<std::size_t>{1});
  CHECK(routers("jtdmoe", "jtdmoe", still) == std::vector<std::size_t>{1, 1});
  // Weights that are always 1 are not enough: balance losses train it all the same
  CHECK(routers("trained", "rt_er", {"--renormalize", "--weight-decay", "0"}) ==
        std::vector<std::size_t>{6});
}

TEST_CASE("images that are attacked while a model is trained do not compete for slots") {
  const TemporaryFolder folder;
  const auto out = folder / "run";
  const Ending trained = run(train(write_images(folder / "data"), out) +
                             Arguments{"--epochs", "1", "--eval-capacity-factor", "0.5",
                                       "--robust-images", "15", "--robust-steps", "1"});
  REQUIRE_MESSAGE(trained.code == 0, trained.err);
  const json robust = metrics(out, "final").at(0).at("robust");
  CHECK(robust.at("images") == 15);  // in groups of four they were 12
  REQUIRE(run({"attack", out, "--attack", "pgd", "--steps", "1", "--n", "0", "--json",
               folder / "attack.json"})
              .code == 0);
  CHECK(robust.at("sa").get<double>() ==
        doctest::Approx(json::parse(read_file(folder / "attack.json")).at("sa").get<double>()));
}

TEST_CASE("a mixture of networks is called so, and a class without images has no margin") {
  const TemporaryFolder folder;
  const auto out = folder / "run";
  const Ending trained = run(train_mixture(write_images(folder / "data"), out, "supervised") +
                             Arguments{"--epochs", "1", "--robust-images", "1"});
  REQUIRE_MESSAGE(trained.code == 0, trained.err);
  CHECK(trained.out == Containing("\nimage_moe: mixture of experts, "));
  CHECK(read_file(out / "report.html") == Containing("<title>V-MoE run: image_moe</title>"));
  const json margins = metrics(out, "final").at(0).at("robust").at("margins");
  REQUIRE(margins.size() == 3);
  CHECK(std::count_if(margins.begin(), margins.end(), [](const json& m) { return m.is_null(); }) ==
        2);
  CHECK(std::count_if(margins.begin(), margins.end(),
                      [](const json& m) { return m.is_number(); }) == 1);
  CHECK(run({"report", out}).code == 0);
  CHECK(fs::exists(out / "report.html"));
}
