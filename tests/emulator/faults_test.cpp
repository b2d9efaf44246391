#include <doctest/doctest.h>

#include "support/skip.hpp"

#if !defined(MOXIE_TEST_FAULTS)

TEST_CASE("emulator: sanitizers find planted faults in kernels") {
  MOXIE_SKIP("needs GCC's sanitizers, and a build without others");
}

#else

#include <sys/wait.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "emulator/errors.hpp"

/// Runs the program of faults.cpp, compiled with one sanitizer or the other, and reads the reports.
namespace moxie::test {
namespace {

struct Outcome {
  int status = -1;
  std::string text;
};

Outcome run(const std::string& sanitizer, const std::string& arguments) {
  const std::string command = std::string("TSAN_OPTIONS=exitcode=66 ASAN_OPTIONS=exitcode=67 \"")
                                  .append(MOXIE_TEST_BIN_DIR "/emulator_faults_")
                                  .append(sanitizer)
                                  .append("\" ")
                                  .append(arguments)
                                  .append(" 2>&1");
  Outcome result;
  std::FILE* const out = popen(command.c_str(), "r");
  REQUIRE(out != nullptr);
  char buffer[4096];
  for (std::size_t n = 0; (n = std::fread(buffer, 1, sizeof buffer, out)) > 0;) {
    result.text.append(buffer, n);
  }
  const int status = pclose(out);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

/// "faults.cpp:LINE" for each line that is marked as part of this fault.
std::vector<std::string> marked_lines(const std::string& fault) {
  std::ifstream source(MOXIE_TEST_SOURCE_DIR "/tests/emulator/faults.cpp");
  REQUIRE(source);
  std::vector<std::string> lines;
  std::string text;
  for (unsigned number = 1; std::getline(source, text); ++number) {
    if (text.ends_with(std::string("// fault: ").append(fault))) {
      lines.push_back(at_line("faults.cpp", number));
    }
  }
  return lines;
}

/// A kernel of this machine that ThreadSanitizer cannot run on says so at once.
bool cannot_run(const Outcome& outcome) {
  return has(outcome.text, "ThreadSanitizer: unexpected memory mapping");
}

TEST_CASE("emulator: ThreadSanitizer names both lines of a planted race") {
  if (cannot_run(run("thread", "barrier correct"))) MOXIE_SKIP("ThreadSanitizer cannot run here");
  for (const std::string fault : {"barrier", "reuse", "warp", "blocks", "copy"}) {
    CAPTURE(fault);
    const Outcome wrong = run("thread", std::string(fault).append(" wrong"));
    CHECK(wrong.status == 66);
    CHECK(has(wrong.text, "WARNING: ThreadSanitizer: data race"));
    const std::vector<std::string> lines = marked_lines(fault);
    CHECK(lines.size() == (fault == "blocks" ? 1 : 2));
    for (const std::string& line : lines) {
      CAPTURE(line);
      CHECK(has(wrong.text, line));
    }
    CHECK(has(wrong.text, "ran\n"));
  }
}

TEST_CASE("emulator: ThreadSanitizer says nothing of correct kernels") {
  if (cannot_run(run("thread", "barrier correct"))) MOXIE_SKIP("ThreadSanitizer cannot run here");
  for (const std::string fault : {"barrier", "reuse", "warp", "blocks", "copy", "dynamic"}) {
    CAPTURE(fault);
    const Outcome correct = run("thread", std::string(fault).append(" correct"));
    CHECK(correct.status == 0);
    CHECK(correct.text == "ran\n");
  }
}

TEST_CASE("emulator: AddressSanitizer sees past the end of shared memory") {
  for (const std::string fault : {"dynamic", "declared"}) {
    CAPTURE(fault);
    const Outcome wrong = run("address", std::string(fault).append(" wrong"));
    CHECK(wrong.status == 67);
    CHECK(has(wrong.text, "ERROR: AddressSanitizer: heap-buffer-overflow"));
    const std::vector<std::string> lines = marked_lines(fault);
    REQUIRE(lines.size() == 1);
    CHECK(has(wrong.text, lines[0]));
    const Outcome correct = run("address", std::string(fault).append(" correct"));
    CHECK(correct.status == 0);
    CHECK(correct.text.ends_with("ran\n"));  // ASan warns that it knows no fibers: it is told
  }
}

}  // namespace
}  // namespace moxie::test

#endif
