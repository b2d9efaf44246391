#include <doctest/doctest.h>
#include <signal.h>

#include <chrono>
#include <random>
#include <thread>

#include "moxie/io/safetensors.hpp"
#include "program.hpp"

using namespace cli;
using fixtures::Containing;
using fixtures::TemporaryFolder;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

/// Waits until metrics.jsonl has a line of the step or a later one.
void wait_for_step(const Process& process, const fs::path& run, std::uint64_t step) {
  for (int i = 0; i < 6000; ++i) {
    const std::string text =
        fs::exists(run / "metrics.jsonl") ? read_file(run / "metrics.jsonl") : "";
    const std::size_t end = text.rfind('\n');
    if (end != std::string::npos) {
      const std::size_t before = end > 0 ? text.rfind('\n', end - 1) : std::string::npos;
      const std::size_t begin = before == std::string::npos ? 0 : before + 1;
      if (json::parse(text.substr(begin, end - begin)).at("step") >= step) return;
    }
    REQUIRE(process.running());
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  FAIL("the run does not come to step ", step);
}

bool has_unfinished_files(const fs::path& run) {
  for (const std::string& name : files_in(run))
    if (name.find(".tmp.") != std::string::npos) return true;
  return false;
}

}  // namespace

TEST_CASE("a run that is killed again and again ends with the bits of one that never was") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const Arguments options{"--epochs", "50", "--log-every", "7", "--mixup", "0.2"};
  const auto whole = folder / "whole", killed = folder / "killed";
  REQUIRE(run(train(data, whole) + options).code == 0);

  // Most of the time goes into checkpoints, so that is where most kills hit.
  const Arguments first = train(data, killed) + options + Arguments{"--checkpoint-every", "1"};
  std::mt19937 random(20240607);
  int kills = 0;
  int code = -1;
  for (int attempt = 0; attempt < 40 && code != 0; ++attempt) {
    // The last one may take its time.
    const auto patience = std::chrono::milliseconds(attempt < 12 ? 10 + random() % 150 : 60000);
    const char* threads = attempt % 2 == 0 ? "1" : "3";
    const bool began = fs::exists(killed / "config.json");
    Process process(began ? Arguments{"train", "--resume", killed, "--threads", threads} : first);
    const auto end = std::chrono::steady_clock::now() + patience;
    while (process.running() && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    process.signal(SIGKILL);
    const Ending ending = process.end();
    code = ending.code;
    REQUIRE_MESSAGE((code == 0 || code == 1000 + SIGKILL), ending.err);
    kills += code == 0 ? 0 : 1;
    if (!fs::exists(killed / "checkpoint")) continue;
    for (const fs::directory_entry& entry : fs::directory_iterator(killed / "checkpoint"))
      if (entry.path().extension() == ".safetensors")
        CHECK_NOTHROW((void)moxie::Safetensors::read(entry.path()));
  }
  REQUIRE(code == 0);
  CHECK(kills >= 3);
  CHECK(tensors(newest_checkpoint(killed)) == tensors(newest_checkpoint(whole)));
  CHECK(newest_checkpoint(killed).filename() == "step-00000300.safetensors");
  CHECK(timeless(killed) == timeless(whole));
  CHECK_FALSE(has_unfinished_files(killed));
}

TEST_CASE("Ctrl-C saves and resuming goes on bit for bit") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto whole = folder / "whole", stopped = folder / "stopped";
  const Arguments options{"--epochs", "200", "--optimizer", "sgd", "--checkpoint-every", "100000"};
  REQUIRE(run(train(data, whole) + options).code == 0);
  {
    Process process(train(data, stopped) + options);
    wait_for_step(process, stopped, 20);
    process.signal(SIGKILL);  // before there is any checkpoint
    CHECK(process.end().code == 1000 + SIGKILL);
  }
  for (const std::uint64_t step : {100U, 300U}) {
    Process process({"train", "--resume", stopped, "--threads", "2"});
    wait_for_step(process, stopped, step);
    process.signal(SIGINT);
    const Ending ending = process.end();
    CHECK(ending.code == 130);
    CHECK(ending.out == Containing(step == 100 ? "no checkpoint yet: starting at the first step"
                                               : "resuming at step "));
    CHECK(ending.out == Containing("go on with: vmoe train --resume " + stopped.string()));
    CHECK(fs::file_size(stopped / "report.html") > 10000);
    CHECK_FALSE(has_unfinished_files(stopped));
  }
  const Ending ending = run({"train", "--resume", stopped});
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  CHECK(tensors(newest_checkpoint(stopped)) == tensors(newest_checkpoint(whole)));
  CHECK(timeless(stopped) == timeless(whole));
}

TEST_CASE("a finished run that is resumed stays as it is") {
  const TemporaryFolder folder;
  const auto out = folder / "run";
  REQUIRE(run(train(write_images(folder / "data"), out)).code == 0);
  const auto before = tensors(newest_checkpoint(out));
  const std::vector<json> lines = timeless(out);
  // What a kill can leave.
  std::ofstream(out / "checkpoint" / "step-00000018.safetensors.tmp.1.0") << "half";
  std::ofstream(out / "metrics.jsonl", std::ios::app) << R"({"event": "tra)";
  const Ending ending = run({"train", "--resume", out});
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  CHECK(tensors(newest_checkpoint(out)) == before);
  CHECK(timeless(out) == lines);
  CHECK_FALSE(has_unfinished_files(out));
}

TEST_CASE("a resumed run keeps its options") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto out = folder / "run";
  REQUIRE(run(train(data, out) + Arguments{"--seed", "4"}).code == 0);
  const auto resume = [&](const Arguments& more) {
    return run(Arguments{"train", "--resume", out} + more);
  };
  const Ending other = resume({"--seed", "0"});
  CHECK(other.code == 2);
  CHECK(other.err == Containing("seed is 0, but the run has 4: a resumed run keeps its options"));
  const Ending moved = resume({"--out", folder / "elsewhere"});
  CHECK(moved.code == 2);
  CHECK(moved.err == Containing("but the run is in '" + out.string() + "' and stays there"));
  CHECK(resume({"--seed", "4", "--keep", "1", "--threads", "2", "--out", out}).code == 0);
  CHECK(std::distance(fs::directory_iterator(out / "checkpoint"), {}) == 1);

  fs::rename(data, folder / "moved");
  const Ending lost = resume({});
  CHECK(lost.code == 1);
  CHECK(lost.err == Containing(data.string()));
  CHECK(resume({"--data", folder / "moved"}).code == 0);
  fs::rename(folder / "moved" / "train" / "cat" / "0.png",
             folder / "moved" / "train" / "dog" / "x.png");
  const Ending changed = resume({"--data", folder / "moved"});
  CHECK(changed.code == 1);
  CHECK(changed.err == Containing("(their fingerprints differ)"));
  const Ending none = run({"train", "--resume", folder.path()});
  CHECK(none.code == 1);
  CHECK(none.err == Containing("holds no run: there is no config.json in it"));
}

TEST_CASE("a checkpoint that does not belong to the model is refused by parameter and shapes") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto own = folder / "own";
  REQUIRE(run(train(data, own)).code == 0);
  const fs::path place = own / "checkpoint" / "step-00000099.safetensors";
  const auto refused = [&](const fs::path& other, int code) {
    fs::copy_file(newest_checkpoint(other), place, fs::copy_options::overwrite_existing);
    const Ending ending = run({"train", "--resume", own});
    CHECK(ending.code == code);
    CHECK(ending.err == Containing(place.string()));
    return ending.err;
  };
  REQUIRE(run(train(data, folder / "wide") + Arguments{"--width", "24"}).code == 0);
  const std::string wide = refused(folder / "wide", 1);
  CHECK(wide == Containing("does not fit the model: '"));
  CHECK(
      wide ==
      Containing("'embedding/kernel' is [4 x 4 x 3 x 24] in the file, expected [4 x 4 x 3 x 16]"));
  REQUIRE(run(train(data, folder / "dense") + Arguments{"--dense"}).code == 0);
  CHECK(refused(folder / "dense", 1) == Containing("is missing"));
  REQUIRE(run(train(data, folder / "seed") + Arguments{"--seed", "8"}).code == 0);
  CHECK(refused(folder / "seed", 2) == Containing("seed is 8, but the run has 0"));
}

TEST_CASE("a damaged checkpoint is refused by name") {
  const TemporaryFolder folder;
  const auto out = folder / "run";
  REQUIRE(run(train(write_images(folder / "data"), out)).code == 0);
  const fs::path file = newest_checkpoint(out);
  const std::string good = read_file(file);
  const auto refused = [&](const std::string& bytes) {
    fixtures::write_file(file, {bytes.begin(), bytes.end()});
    std::string said;
    for (const Arguments& arguments :
         {Arguments{"eval", out}, Arguments{"eval", file}, Arguments{"train", "--resume", out}}) {
      const Ending ending = run(arguments);
      CHECK(ending.code == 1);
      CHECK(ending.err == Containing(file.string()));
      said = ending.err;
    }
    return said;
  };
  CHECK(refused("") == Containing("is it cut off?"));
  CHECK(refused(good.substr(0, 1000)) == Containing("is it cut off"));
  CHECK(refused(good.substr(0, good.size() - 1)) == Containing("expected"));
  std::string flipped = good;
  flipped[flipped.size() - 5] = static_cast<char>(flipped[flipped.size() - 5] ^ 1);
  CHECK(refused(flipped) == Containing("is damaged: its checksum is"));
  CHECK(refused("PNG, or anything else") == Containing("no safetensors file?"));
  fs::remove(file);
  const Ending missing = run({"eval", file});
  CHECK(missing.code == 1);
  CHECK(missing.err == Containing("vmoe: there is no '" + file.string() +
                                  "', expected a run's folder or a checkpoint file"));
}

TEST_CASE("a run that trains can be evaluated but not trained by another process") {
  const TemporaryFolder folder;
  const auto out = folder / "run";
  const Arguments arguments =
      train(write_images(folder / "data"), out) + Arguments{"--epochs", "1000000"};
  Process process(arguments);
  wait_for_step(process, out, 60);
  const Ending second = run({"train", "--resume", out});
  CHECK(second.code == 1);
  CHECK(second.err == Containing("another process is training the run in '" + out.string() + "'"));
  CHECK(run(arguments).err == Containing("already holds a run"));
  const Ending figures = run({"eval", out, "--threads", "1"});
  CHECK_MESSAGE(figures.code == 0, figures.err);
  CHECK(process.running());
  process.signal(SIGTERM);
  CHECK(process.end().code == 130);
  CHECK_NOTHROW((void)metrics(out));
}
