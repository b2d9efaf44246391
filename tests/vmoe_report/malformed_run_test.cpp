// Run directories that a report refuses, and what it says.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "vmoe_report/run_fixture.hpp"

TEST_CASE_FIXTURE(RunFixture, "a missing file is named") {
  SUBCASE("config") {
    std::filesystem::remove(path / "config.json");
    CHECK(error() == expected_error("config.json: cannot be read; a run directory has it"));
  }
  SUBCASE("metrics") {
    std::filesystem::remove(path / "metrics.jsonl");
    CHECK(error() == expected_error("metrics.jsonl: cannot be read; a run directory has it"));
  }
}

TEST_CASE_FIXTURE(RunFixture, "a malformed file is named with its line, and an old report stays") {
  fake::write(path / "report.html", "old");
  std::string file, text, message;
  const auto wrong = [&](const char* name, const char* content, const char* expected) {
    file = name;
    text = content;
    message = expected;
  };
  const std::string train = R"({"event":"train","step":1})";
  SUBCASE("config") {
    wrong("config.json", "{\n \"seed\": 1,\n oops}", ":3: not valid JSON: syntax error");
  }
  SUBCASE("config cut short") { wrong("config.json", "{\n \"seed\":\n", ":3: not valid JSON: "); }
  SUBCASE("config too large a number") {
    wrong("config.json", "[1,\n1e999]", ":2: not valid JSON: number overflow");
  }
  SUBCASE("config of another kind") {
    wrong("config.json", "[1]", ":1: found [1], expected an object");
  }
  SUBCASE("metrics") {
    wrong("metrics.jsonl",
          "{\"event\":\"train\",\"step\":1}\n\n{\"event\":", ":3: not valid JSON: syntax error");
  }
  SUBCASE("metrics not UTF-8") {
    wrong("metrics.jsonl", "{\"event\":\"\xff\"}", ":1: not valid JSON: ");
  }
  SUBCASE("metrics of another kind") {
    wrong("metrics.jsonl", "3\n", ":1: found 3, expected an object");
  }
  SUBCASE("metrics without event") {
    wrong("metrics.jsonl", "{\"step\":1}\n", ":1: \"event\" is missing");
  }
  SUBCASE("metrics with a strange event") {
    wrong("metrics.jsonl", "{\"event\":\"nap\",\"step\":1}\r\n",
          ":1: \"event\" is \"nap\", expected \"train\", \"eval\" or \"final\"");
  }
  SUBCASE("metrics without step") {
    wrong("metrics.jsonl", "{\"event\":\"train\"}\n", ":1: \"step\" is missing");
  }
  SUBCASE("metrics with half a step") {
    wrong("metrics.jsonl", "{\"event\":\"train\",\"step\":1.5}\n", ":1: \"step\": found 1.5");
  }
  SUBCASE("metrics with text for a number") {
    wrong("metrics.jsonl", "{\"event\":\"eval\",\"step\":1,\"loss\":\"high\"}\n",
          ":1: \"loss\" is \"high\", expected a number or null");
  }
  SUBCASE("metrics without load") {
    wrong("metrics.jsonl", "{\"event\":\"eval\",\"step\":1,\"layers\":[{\"block\":0}]}\n",
          ":1: \"load\" is missing");
  }
  SUBCASE("routing") { wrong("routing.json", "{\"patch\":4,\n\n]", ":3: not valid JSON: "); }

  fake::write(path / file, text);

  const std::string got = error();
  CAPTURE(got);
  CHECK(got.rfind(expected_error(file) + message, 0) == 0);
  CHECK(fake::read(path / "report.html") == "old");
}

TEST_CASE_FIXTURE(RunFixture, "a wrong element of routing.json is named") {
  fake::Json routing = fake::routing(run);
  std::string message;
  SUBCASE("grid") {
    routing["grid"] = {8};
    message = ": \"grid\" is [8], expected [rows, columns]";
  }
  SUBCASE("grid too large for the image") {
    routing["grid"] = {9, 8};
    message = ": images[0]: \"height\": found 32, expected an integer from 36 to 16384";
  }
  SUBCASE("pixels") {
    routing["images"][1]["pixels"] = "AAAA";
    message = ": images[1].pixels: holds 3 bytes, expected 3072 (height * width * channels)";
  }
  SUBCASE("not base64") {
    routing["images"][1]["pixels"] = "AA*A";
    message = ": images[1].pixels: not a base64 string";
  }
  SUBCASE("patches") {
    routing["images"][0]["routes"][1].erase(0);
    message = ": images[0].routes[1]: expected an array of 64 patches (\"grid\")";
  }
  SUBCASE("an expert that is not there") {
    routing["images"][0]["routes"][1][5] = {2, 8};
    message =
        ": images[0].routes[1][5]: found [2,8], expected an array of experts below 8, or -1 for a "
        "dropped choice";
  }
  SUBCASE("classes") {
    routing["classes"][2] = 4;
    message = ": \"classes\" holds 4, expected strings";
  }

  fake::write(path / "routing.json", routing.dump());

  CHECK(error() == expected_error("routing.json") + message);
}

TEST_CASE_FIXTURE(RunFixture, "a report that cannot be written is an error and leaves no draft") {
  std::filesystem::create_directories(path / "report.html" / "in the way");

  CHECK(error().rfind(expected_error("report.html: cannot be written"), 0) == 0);
  CHECK_FALSE(std::filesystem::exists(path / "report.html.tmp"));
}
