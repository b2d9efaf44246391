// The order of copies and computing that feeds a GPU, checked without one: see staging_check.cpp.
#include <doctest/doctest.h>

#include "support/skip.hpp"
#include "vmoe_cli/program.hpp"

namespace moxie::test::staging_test {
namespace {

cli::Ending check(const cli::Arguments& arguments) {
  return cli::run(arguments, {.program = MOXIE_TEST_BIN_DIR "/vmoe_staging_check"});
}

TEST_CASE("batches reach the device while it computes, in the right order and without a race") {
  const cli::Ending ending = check({});
  CHECK_MESSAGE(ending.code == 0, ending.out, ending.err);
}

TEST_CASE("each wait between host, copies and device is needed") {
#if !defined(MOXIE_TEST_STAGING_RACES)
  MOXIE_SKIP("needs the thread sanitizer, and a build without another");
#endif
  constexpr int race = 66;  // the sanitizer's exit code
  for (const char* forgotten :
       {"copies_for_use", "use_for_copies", "host_for_copies", "end_for_copies"}) {
    CAPTURE(forgotten);
    const cli::Ending ending = check({forgotten});
    CHECK(ending.code == race);
    CHECK(ending.err.find("ThreadSanitizer: ") != std::string::npos);
  }
  CHECK(check({"another"}).code == 2);
}

}  // namespace
}  // namespace moxie::test::staging_test
