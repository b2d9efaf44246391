#include <doctest/doctest.h>
#include <signal.h>
#include <sys/resource.h>

#include <fstream>

#include "io/folder.hpp"
#include "moxie/core/error.hpp"
#include "program.hpp"
#include "support/skip.hpp"
#include "vmoe/run_directory.hpp"

using namespace cli;
using fixtures::Containing;
using fixtures::TemporaryFolder;
namespace fs = std::filesystem;

TEST_CASE("an output folder that cannot be written is an error that names it") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  std::ofstream(folder / "file") << "x";
  const Ending beneath_file = run(train(data, folder / "file" / "run"));
  CHECK(beneath_file.code == 1);
  CHECK(beneath_file.err ==
        Containing("cannot make the output folder '" + (folder / "file" / "run").string()));
  CHECK(beneath_file.err == Containing("Not a directory"));

  const Ending figures =
      run(train(data, folder / "run") + Arguments{"--json", folder / "no" / "f.json"});
  CHECK(figures.code == 1);
  CHECK(figures.err == Containing("f.json': cannot create a file beside it: No such file"));
  CHECK_FALSE(fs::exists(folder / "run"));  // known before the work, not after
}

TEST_CASE("a folder in which nobody may write is an error that names it") {
  if (!can_be_ordinary()) MOXIE_SKIP("the superuser's rights over files cannot be given up here");
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  fs::create_directory(folder / "locked");
  fs::permissions(folder / "locked", fs::perms::owner_read | fs::perms::owner_exec);
  const Ending locked = run(train(data, folder / "locked" / "run"), {.ordinary = true});
  CHECK(locked.code == 1);
  CHECK(locked.err ==
        Containing("cannot make the output folder '" + (folder / "locked" / "run").string()));
  CHECK(locked.err == Containing("Permission denied"));
  CHECK(fs::is_empty(folder / "locked"));
  fs::permissions(folder / "locked", fs::perms::owner_all);
}

TEST_CASE("a folder that holds a run is not trained into again") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  REQUIRE(run(train(data, folder / "run")).code == 0);
  const std::string before = read_file(folder / "run" / "metrics.jsonl");
  const Ending again = run(train(data, folder / "run"));
  CHECK(again.code == 1);
  CHECK(again.err == Containing("already holds a run: continue it (vmoe train --resume"));
  CHECK(read_file(folder / "run" / "metrics.jsonl") == before);
}

TEST_CASE("a full disk is an error that leaves nothing half-written") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  // Too small for config.json: no run has begun.
  const Ending nothing = run(train(data, folder / "deep" / "run"), {.largest_file = 100});
  CHECK(nothing.code == 1);
  CHECK(nothing.err == Containing("config.json': cannot write: File too large"));
  CHECK_FALSE(fs::exists(folder / "deep"));

  // Too small for a checkpoint.
  const auto out = folder / "run";
  const Ending checkpoint = run(train(data, out), {.largest_file = 20000});
  CHECK(checkpoint.code == 1);
  CHECK(checkpoint.err == Containing("step-00000006.safetensors': cannot write: File too large"));
  CHECK(files_in(out) == std::vector<std::string>{"checkpoint", "config.json", "metrics.jsonl"});
  // With room, the run goes on.
  const Ending resumed = run({"train", "--resume", out});
  REQUIRE_MESSAGE(resumed.code == 0, resumed.err);
  REQUIRE(run(train(data, folder / "whole")).code == 0);
  CHECK(tensors(newest_checkpoint(out)) == tensors(newest_checkpoint(folder / "whole")));
}

TEST_CASE("a device that is full takes no figures, and says so") {
  if (!fs::is_character_file("/dev/full")) MOXIE_SKIP("there is no /dev/full here");
  const TemporaryFolder folder;
  const auto out = folder / "run";
  REQUIRE(run(train(write_images(folder / "data"), out)).code == 0);
  const Ending printed = run({"eval", out}, {.output = "/dev/full"});
  CHECK(printed.code == 1);
  CHECK(printed.err ==
        Containing("cannot write the figures to standard output: No space left on device"));
  // Figures take a file's place in one step, which a device's place is not for.
  const Ending replaced = run({"eval", out, "--json", "/dev/full"});
  CHECK(replaced.code == 1);
  CHECK(replaced.err == Containing("'/dev/full' is not a regular file"));
  CHECK(fs::is_character_file("/dev/full"));
}

TEST_CASE("a line of metrics that finds no room is not there at all") {
  const TemporaryFolder folder;
  const int said = moxie::test::in_child([&] {
    vmoe::RunWriter run = vmoe::RunWriter::create(folder / "run", {{"options", nullptr}});
    ::signal(SIGXFSZ, SIG_IGN);
    const ::rlimit limit{100, 100};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      for (int step = 0; step < 100; ++step) run.log({{"event", "train"}, {"step", step}});
    } catch (const moxie::io_error&) {
      return 7;
    }
    return 0;
  });
  CHECK(said == 7);
  CHECK(metrics(folder / "run").size() == 3);  // of 27 bytes and the end of the line
}

TEST_CASE("what is written again after a checkpoint is taken from the metrics") {
  const TemporaryFolder folder;
  {
    vmoe::RunWriter run = vmoe::RunWriter::create(folder / "run", {{"options", nullptr}});
    for (const unsigned step : {5U, 10U, 10U, 15U, 18U})
      run.log({{"event", "train"}, {"step", step}});
    run.log({{"event", "final"}, {"step", 18U}});
  }
  const auto lines_after = [&](std::uint64_t step) {
    vmoe::RunWriter run = vmoe::RunWriter::resume(folder / "run");
    run.cut_metrics(step);
    return metrics(folder / "run").size();
  };
  CHECK(lines_after(18) == 5);  // a final line is always written again
  CHECK(lines_after(17) == 4);
  CHECK(lines_after(10) == 3);
  CHECK(lines_after(0) == 0);
}
