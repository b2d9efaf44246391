#pragma once
// MOXIE_SKIP("reason"): leaves the test case; CTest then reports it as skipped. Use it before the
// first check.

#include <cstdio>

#define MOXIE_SKIP(reason)                       \
  do {                                           \
    std::printf("moxie: skipped: %s\n", reason); \
    return;                                      \
  } while (false)
