#include <doctest/doctest.h>

#include "moxie/runtime/any_regularizers.hpp"
#include "program.hpp"
#include "vmoe/options.hpp"

using namespace cli;
using fixtures::Containing;
using fixtures::TemporaryFolder;
using nlohmann::json;

namespace {

/// The options that a run with these arguments keeps.
json options_of(const TemporaryFolder& folder, const Arguments& more) {
  const auto out = folder / "run";
  std::filesystem::remove_all(out);
  const Ending ending =
      run(train(write_images(folder / "data"), out) + Arguments{"--epochs", "1"} + more);
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  return json::parse(read_file(out / "config.json")).at("options");
}

void write(const std::filesystem::path& path, const std::string& text) {
  fixtures::write_file(path, {text.begin(), text.end()});
}

}  // namespace

TEST_CASE("help lists every option with its default and goes to standard output") {
  const Ending ending = run({"train", "--help"});
  CHECK(ending.code == 0);
  CHECK(ending.err.empty());
  const vmoe::Options defaults;
  vmoe::visit_options(defaults, [&](const char*, const char* name, const auto&, const char* help) {
    CHECK(ending.out == Containing(vmoe::flag_of(name).substr(2)));
    CHECK(ending.out == Containing(help));
  });
  CHECK(ending.out == Containing("--batch N (" + std::to_string(defaults.batch) + ")"));
  CHECK(ending.out == Containing(std::string("--[no-]flip (") + (defaults.flip ? "on" : "off")));
  CHECK(ending.out == Containing("--config FILE"));
  CHECK(ending.out == Containing("--data PATH "));
  CHECK(ending.out == Containing("--out PATH ("));
  for (const std::string_view loss : moxie::regularizer_names)
    CHECK((std::string(vmoe::losses_help()) == Containing(std::string(loss))) !=
          loss.starts_with("pairwise_"));

  const Ending all = run({"--help"});
  CHECK(all.code == 0);
  for (const char* command :
       {"train", "eval", "stability", "report", "attack", "certify", "dual", "upcycle"})
    CHECK(all.out == Containing(command));
  CHECK(run({"eval", "--help"}).out == Containing("--threads N (0)"));
  const std::string certify = run({"certify", "--help"}).out;
  for (const char* flag : {"--radii LIST (", "--n N (", "--seed N (", "--data PATH", "--json FILE"})
    CHECK(certify == Containing(flag));
  // What there is to mix is listed alike
  for (const char* command : {"train", "dual"})
    CHECK(run({command, "--help"}).out == Containing("mixes: logit, log_probability"));
  CHECK(run({"--version"}).code == 0);
}

TEST_CASE("arguments that mean nothing are refused with the nearest that mean something") {
  const auto refused = [](const Arguments& arguments) {
    const Ending ending = run(arguments);
    CHECK(ending.code == 2);
    CHECK(ending.out.empty());
    return ending.err;
  };
  CHECK(refused({}) == Containing("no command came, expected train, eval, "));
  CHECK(refused({"tran"}) == Containing("unknown command 'tran' (did you mean 'train'?)"));
  CHECK(refused({"train", "--epohs", "3"}) ==
        Containing("unknown argument '--epohs' (did you mean '--epochs'?)"));
  CHECK(refused({"train", "--learning_rate=3"}) ==
        Containing("unknown argument '--learning_rate' (did you mean '--learning-rate'?)"));
  CHECK(refused({"train", "images"}) == Containing("unknown argument 'images'"));
  CHECK(refused({"train", "--no-clip"}) == Containing("unknown argument '--no-clip'"));
  CHECK(refused({"eval"}) == Containing("no path came, expected a checkpoint or a run's folder"));
  CHECK(refused({"eval", "run", "--treads", "1"}) ==
        Containing("unknown argument '--treads' (did you mean '--threads'?)"));
}

TEST_CASE("a mistake of usage ends with the command whose help to ask for") {
  const auto ends = [](const Arguments& arguments, const std::string& hint) {
    const Ending ending = run(arguments);
    CHECK(ending.code == 2);
    CHECK(ending.err.ends_with("\n(" + hint + ")\n"));
  };
  for (const std::string command :
       {"train", "eval", "stability", "report", "attack", "certify", "dual", "upcycle"}) {
    ends({command, "--flagg", "1"}, "vmoe " + command + " --help lists what it takes");
    ends({"--backend", "cpu", command, "--flagg"},
         "vmoe " + command + " --help lists what it takes");
  }
  ends({}, "vmoe --help lists the commands");
  ends({"tran", "--epochs", "1"}, "vmoe --help lists the commands");
}

TEST_CASE("a flag's value must be all of what the option expects") {
  const auto refused = [](const std::string& flag, const std::string& value) {
    const Ending ending = run({"train", "--data", "x", flag + "=" + value});
    CHECK(ending.code == 2);
    return ending.err;
  };
  CHECK(refused("--epochs", "ten") == Containing("--epochs is 'ten', expected a number"));
  CHECK(refused("--batch", "1.5") == Containing("--batch is '1.5', expected a whole number"));
  CHECK(refused("--batch", "8 ") == Containing("--batch is '8 ', expected a whole number"));
  CHECK(refused("--seed", "-1") == Containing("--seed is '-1', expected a whole number"));
  CHECK(refused("--batch", "99999999999999999999") == Containing("expected a whole number"));
  CHECK(refused("--flip", "maybe") == Containing("--flip is 'maybe', expected true or false"));
  CHECK(refused("--epochs", "nan") == Containing("epochs is nan, expected a finite number"));
  CHECK(refused("--threads", "5000") == Containing("threads is 5000, expected 0 to 1024"));
  CHECK(refused("--group-images", "3") ==
        Containing("group_images is 3, expected a divisor of batch"));
  CHECK(run({"train", "--epochs"}).err == Containing("--epochs: 1 required NUMBER missing"));
  CHECK(run({"train"}).err == Containing("data is empty, expected a path (--data PATH)"));
}

TEST_CASE("flags win over the configuration file and both over the defaults") {
  const TemporaryFolder folder;
  const auto config = folder / "config.json";
  write(config, R"({"flip": true, "mixup": 0.2, "seed": 7, "renormalize": true, "keep": 9})");
  const json options =
      options_of(folder, {"--config", config, "--no-flip", "--seed", "0", "--keep=3"});
  CHECK(options.at("flip") == false);
  CHECK(options.at("mixup") == 0.2);
  CHECK(options.at("seed") == 0);  // though it is the default
  CHECK(options.at("keep") == 3);
  CHECK(options.at("renormalize") == true);
  CHECK(options.at("beta2") == vmoe::Options{}.beta2);

  write(config, R"({"flip": false, "same_experts": true})");
  const json other = options_of(
      folder, {"--flip", "--config", config, "--no-same-experts", "--seed", "1", "--seed", "2"});
  CHECK(other.at("flip") == true);
  CHECK(other.at("same_experts") == false);
  CHECK(other.at("seed") == 2);  // the last of several
}

TEST_CASE("a run keeps its whole configuration, from which another can be trained") {
  const TemporaryFolder folder;
  json first = options_of(folder, {"--mixup", "0.3", "--optimizer", "sgd"});
  const vmoe::Options defaults;
  vmoe::visit_options(defaults, [&](const char*, const char* name, const auto&, const char*) {
    CHECK_MESSAGE(first.contains(name), name);
  });
  const auto again = folder / "again";
  const Ending ending =
      run({"train", "--config", folder / "run" / "config.json", "--out", again.string()});
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  json second = json::parse(read_file(again / "config.json")).at("options");
  first.erase("out");
  second.erase("out");
  CHECK(first == second);
  CHECK(tensors(newest_checkpoint(folder / "run")) == tensors(newest_checkpoint(again)));
}

TEST_CASE("configuration files are refused by file, key and expectation") {
  const TemporaryFolder folder;
  const auto file = folder / "c.json";
  const auto refused = [&](const std::string& text) {
    write(file, text);
    const Ending ending = run({"train", "--config", file});
    CHECK(ending.code == 2);
    CHECK(ending.err == Containing(file.string()));
    return ending.err;
  };
  CHECK(refused(R"({"epoch": 3})") == Containing("unknown key 'epoch' (did you mean 'epochs'?)"));
  CHECK(refused(R"({"epochs": "3"})") == Containing("'epochs' is \"3\", expected a number"));
  CHECK(refused(R"({"batch": 8.5})") == Containing("'batch' is 8.5, expected a whole number"));
  CHECK(refused(R"({"batch": 18446744073709551615})") == Containing("expected a whole number"));
  CHECK(refused(R"({"seed": -1})") == Containing("'seed' is -1, expected a whole number"));
  CHECK(refused(R"({"flip": 1})") == Containing("'flip' is 1, expected true or false"));
  CHECK(refused(R"({"data": 1})") == Containing("'data' is 1, expected a string"));
  CHECK(refused("[1]") == Containing("expected an object of options, got array"));
  CHECK(refused(R"({"options": 3})") == Containing("expected an object of options, got number"));
  CHECK(refused("{epochs: 3}") == Containing("is not JSON"));
  CHECK(refused("") == Containing("or it is empty"));
  for (const auto& path : {folder / "none.json", folder.path()}) {
    const Ending ending = run({"train", "--config", path});
    CHECK(ending.code == 2);
    CHECK(ending.err == Containing("cannot read the configuration '" + path.string()));
  }
}

TEST_CASE("an option that makes no sense is an error before anything is written") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto refused = [&](const Arguments& more) {
    const Ending ending = run(train(data, folder / "runs" / "run") + more);
    CHECK(ending.code == 2);
    CHECK(ending.err == Containing("error: "));
    CHECK_FALSE(std::filesystem::exists(folder / "runs"));
    return ending.err;
  };
  CHECK(refused({"--patch", "3"}) ==
        Containing("patch is 3, expected a divisor of image_height 8 and image_width 8"));
  CHECK(refused({"--k", "9"}) == Containing("k is 9, expected 1 to 4 (the number of experts)"));
  CHECK(refused({"--capacity-factor", "0"}) == Containing("factor is 0, expected a number > 0"));
  CHECK(refused({"--capacity-factor", "-1"}) == Containing("factor is -1, expected a number > 0"));
  CHECK(refused({"--heads", "3"}) ==
        Containing("heads is 3, expected a divisor of width, which is 16"));
  CHECK(refused({"--batch", "1000", "--group-images", "8"}) ==
        Containing("batch_size is 1000 but there are 48 training images"));
  CHECK(refused({"--crop-padding", "8"}) == Containing("crop_padding is 8, expected 0 to 7"));
  CHECK(refused({"--label-smoothing", "1"}) == Containing("label_smoothing is 1"));
  CHECK(refused({"--schedule", "step"}) == Containing("there is no schedule 'step'"));
  CHECK(refused({"--optimizer", "adam"}) ==
        Containing("optimizer is 'adam', expected adamw or sgd"));
  CHECK(refused({"--preset", "huge"}) == Containing("name is 'huge', expected one of: nano"));
  CHECK(refused({"--moe", "first-1"}) ==
        Containing("moe is 'first-1', expected preset, none, last-N"));
  CHECK(refused({"--beta2", "1"}) == Containing("beta2 must be in [0, 1)"));
  CHECK(refused({"--epochs", "0.05", "--warmup-epochs", "0"}) ==
        Containing("epochs is 0.05, expected at least one step"));
  CHECK(refused({"--epochs", "1e300"}) == Containing("expected at most"));
  CHECK(refused({"--channels", "1"}) ==
        Containing("channels is 1, but the images have 3; expected 0 or 3"));
}
