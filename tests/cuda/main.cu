// doctest's main for programs that need a GPU: it lists its cases anywhere, and without a device
// ends as device_or_code says.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <string_view>

#include "cuda/device_or_code.hpp"

int main(int argc, char** argv) {
  bool lists = false;
  for (int i = 1; i < argc; ++i) lists = lists || std::string_view(argv[i]) == "--list-test-cases";
  if (!lists) {
    if (const int code = moxie::test::device_or_code(); code != 0) return code;
  }
  return doctest::Context(argc, argv).run();
}
