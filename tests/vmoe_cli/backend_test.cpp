#include <doctest/doctest.h>

#include <fstream>

#include "program.hpp"
#include "support/skip.hpp"

using namespace cli;
using fixtures::Containing;
using fixtures::TemporaryFolder;
namespace fs = std::filesystem;

TEST_CASE("a backend that is not built is a mistake of usage that says how to build it") {
  if (fs::exists(MOXIE_TEST_BIN_DIR "/vmoe_cuda")) MOXIE_SKIP("vmoe_cuda is built");
  for (const Arguments& arguments :
       {Arguments{"train", "--data", "x", "--backend", "cuda"}, {"--backend=cuda", "eval", "x"}}) {
    const Ending ending = run(arguments);
    CHECK(ending.code == 2);
    CHECK(ending.err == Containing("error: vmoe: backend is 'cuda', but there is no '"));
    CHECK(ending.err == Containing("-DMOXIE_CUDA=ON (target vmoe_cuda)"));
  }
}

TEST_CASE("an unknown backend is refused with the nearest") {
  const Ending ending = run({"eval", "x", "--backend", "cudo"});
  CHECK(ending.code == 2);
  CHECK(ending.err == Containing("there is no backend 'cudo' (did you mean 'cuda'?)"));
}

TEST_CASE("the program of another backend that lies beside takes over with the same arguments") {
  const TemporaryFolder folder;
  const fs::path own = folder / "vmoe", other = folder / "vmoe_cuda";
  fs::copy_file(MOXIE_TEST_BIN_DIR "/vmoe", own);
  std::ofstream(other) << "#!/bin/sh\nfor word in \"$@\"; do echo \"<$word>\"; done\nexit 7\n";
  fs::permissions(other, fs::perms::owner_all);
  const Ending ending = run({"eval", "two words", "--backend", "cuda"}, {.program = own});
  CHECK(ending.code == 7);
  CHECK(ending.out == "<eval>\n<two words>\n<--backend>\n<cuda>\n");
}

TEST_CASE("the backend of a run is in its configuration, and cpu is the usual one") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const Arguments brief{"--epochs", "0.2", "--warmup-epochs", "0"};
  REQUIRE(run(train(data, folder / "a") + brief).code == 0);
  REQUIRE(run(train(data, folder / "b") + brief + Arguments{"--backend", "cpu"}).code == 0);
  CHECK(config_of(folder / "a").at("backend") == "cpu");
  CHECK(timeless(folder / "a") == timeless(folder / "b"));
  CHECK(metrics(folder / "a", "final").front().at("backend") == "cpu");
}

TEST_CASE("tf32 has no effect on the CPU and is refused there") {
  const Ending ending = run({"train", "--data", "x", "--tf32"});
  CHECK(ending.code == 2);
  CHECK(ending.err == Containing("--tf32 has no effect without --backend cuda"));
}
