// What the program says and how it ends, whatever the library computes.
#include <doctest/doctest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "io/folder.hpp"
#include "support/vectors.hpp"

using namespace moxie::test;
using nlohmann::json;

namespace {

struct Ending {
  int code = 0;
  std::string text;  ///< of both streams
};

std::string quoted(const std::filesystem::path& path) {
  std::string text(1, '\'');
  text += path.string();
  text += '\'';
  return text;
}

Ending conformance(const std::string& arguments) {
  const std::string command = "'" MOXIE_TEST_BIN_DIR "/conformance' " + arguments + " 2>&1";
  std::FILE* out = ::popen(command.c_str(), "r");
  REQUIRE(out != nullptr);
  Ending ending;
  std::array<char, 4096> part{};
  for (std::size_t n = 0; (n = std::fread(part.data(), 1, part.size(), out)) > 0;)
    ending.text.append(part.data(), n);
  const int status = ::pclose(out);
  ending.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
  return ending;
}

/// The program on one vector.
Ending run(const json& vector, const std::string& options = "") {
  const Folder folder;
  write_file(folder / "vector.json", vector.dump());
  return conformance(options + " " + quoted(folder / "vector.json"));
}

}  // namespace

TEST_CASE("a folder is run file by file, and the last line counts") {
  const Folder folder;
  write_file(folder / "b.json", read_vector("01_capacity").dump());
  write_file(folder / "a.json", read_vector("25_posemb_loss").dump());
  write_file(folder / "c.txt", "not a vector");
  json wrong = read_vector("01_capacity");
  wrong["expected"]["capacity"][1] = 77;
  write_file(folder / "c.json", wrong.dump());
  const Ending all = conformance(quoted(folder.path()));
  CHECK(all.code == 1);
  CHECK(all.text.starts_with("PASS 25_posemb_loss "));
  CHECK(all.text.ends_with(
      "\nPASS 01_capacity 0\nFAIL 01_capacity capacity[1] 77 3\n2 passed, 1 failed\n"));

  const Ending two = conformance(quoted(folder / "a.json") + " " + quoted(folder / "b.json"));
  CHECK(two.code == 0);
  CHECK(two.text.ends_with("\n2 passed, 0 failed\n"));
}

TEST_CASE("a changed number, a missing key and a changed length are failures that name the place") {
  json v = read_vector("02_token_choice_first");
  v["expected"]["combine"][1][2][0] = 0.25;
  Ending e = run(v);
  CHECK(e.code == 1);
  CHECK(e.text.starts_with("FAIL 02_token_choice_first combine[1][2][0] 0.25 "));
  CHECK(e.text.ends_with("\n0 passed, 1 failed\n"));

  v = read_vector("02_token_choice_first");
  v["expected"]["kept"][0][0] = 1;  // a boolean is not a number
  CHECK(run(v).text.starts_with("FAIL 02_token_choice_first kept[0][0] 1 true\n"));

  v = read_vector("02_token_choice_first");
  v["expected"]["more"] = 3;
  CHECK(run(v).text.starts_with("FAIL 02_token_choice_first more 3 nothing\n"));

  v = read_vector("07_expert_choice");
  v["expected"]["token"][2].push_back(0);
  CHECK(run(v).text.starts_with("FAIL 07_expert_choice token[2] array[4] array[3]\n"));

  v = read_vector("15_bias_balancing");
  v["expected"]["steps"].erase(2);  // as many steps as are listed
  CHECK(run(v).code == 0);
  v["expected"]["steps"][1]["count"][0] = -1;
  CHECK(run(v).text.starts_with("FAIL 15_bias_balancing steps[1].count[0] -1 "));
}

TEST_CASE("reals may differ by the tolerance, which is relative above 1") {
  json v = read_vector("24_optimiser_schedules");
  const double norm = v["expected"]["norm"].get<double>();  // 5.7
  v["tol_float64"] = 1e-6;
  v["expected"]["norm"] = norm * (1 + 9e-7);
  CHECK(run(v).code == 0);
  v["expected"]["norm"] = norm * (1 + 2e-6);
  CHECK(run(v).text.starts_with("FAIL 24_optimiser_schedules norm 5.69"));
  CHECK(run(v, "--scalar float").code == 0);  // 1e-5
  v["expected"]["norm"] = norm * (1 + 2e-5);
  CHECK(run(v, "--scalar float").code == 1);
}

TEST_CASE("a kind that is unknown, and a file that is no vector, are failures") {
  json v = read_vector("01_capacity");
  v["name"] = "99_unheard_of";
  Ending e = run(v);
  CHECK(e.code == 1);
  CHECK(e.text == "FAIL 99_unheard_of kind known unknown\n0 passed, 1 failed\n");

  v.erase("name");
  e = run(v);
  CHECK(e.code == 1);
  CHECK(e.text.starts_with("FAIL vector error none "));

  v = read_vector("02_token_choice_first");
  v["inputs"]["k"] = 9;
  e = run(v);
  CHECK(e.code == 1);
  CHECK(e.text.starts_with(
      "FAIL 02_token_choice_first error none moxie::TopKRouter: k is 9, expected 1 to 4"));

  const Folder folder;
  write_file(folder / "broken.json", "{\"name\": ");
  e = conformance(quoted(folder / "broken.json"));
  CHECK(e.code == 1);
  CHECK(e.text.starts_with("FAIL broken error none "));
}

TEST_CASE("in float a ranking of scores that float cannot tell apart is skipped") {
  json v = read_vector("07_expert_choice");
  v["inputs"] = {{"scores", {{0.5}, {0.5 + 1e-9}}}, {"capacity", 1}};
  v["expected"] = {{"token", {{1}}}};
  CHECK(run(v).code == 0);
  const Ending e = run(v, "--scalar float");
  CHECK(e.code == 0);
  CHECK(e.text == "SKIP 07_expert_choice ranks scores that are 1e-09 apart\n0 passed, 0 failed\n");
  v["expected"] = {{"token", {{0}}}};  // wrong in double: no excuse
  v["inputs"]["scores"][0][0] = 0.4;
  CHECK(run(v, "--scalar float").code == 1);
}

#if defined(MOXIE_TEST_THRUST)
TEST_CASE("a backend that has a program of its own is run by that") {
  json v = read_vector("01_capacity");
  Ending e = run(v, "--backend emulated --scalar float");
  CHECK(e.code == 0);
  CHECK(e.text == "PASS 01_capacity 0\n1 passed, 0 failed\n");
  v["expected"]["capacity"][1] = 77;
  e = run(v, "--backend emulated");
  CHECK(e.code == 1);
  CHECK(e.text == "FAIL 01_capacity capacity[1] 77 3\n0 passed, 1 failed\n");
}
#endif

TEST_CASE("what cannot be run at all ends with 2") {
  const std::string vectors = "'" MOXIE_TEST_SOURCE_DIR "/tests/conformance/vectors'";
  const auto refused = [](const std::string& arguments, const std::string& text) {
    const Ending e = conformance(arguments);
    CHECK(e.code == 2);
    CHECK_MESSAGE(e.text.find(text) != std::string::npos, e.text);
  };
  refused("", "path is required");
  refused("/does/not/exist.json", "conformance: there is no file or folder '/does/not/exist.json'");
  if (!std::filesystem::exists(MOXIE_TEST_BIN_DIR "/conformance_cuda"))
    refused("--backend cuda " + vectors, "conformance: this build has no backend 'cuda'");
#if !defined(MOXIE_TEST_THRUST)
  refused("--backend emulated " + vectors, "conformance: this build has no backend 'emulated'");
#endif
  refused("--backend gpu " + vectors, "gpu");
  refused("--scalar half " + vectors, "half");
  const Folder empty;
  refused(quoted(empty.path()), "has no *.json");
  CHECK(conformance("--help").code == 0);
}
