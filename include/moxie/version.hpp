#pragma once
// The version of the library: the only place that states it. CMake reads it from here.

#include <string_view>

#define MOXIE_VERSION_MAJOR 0
#define MOXIE_VERSION_MINOR 1
#define MOXIE_VERSION_PATCH 0

namespace moxie {

#define MOXIE_DETAIL_TEXT(number) #number
#define MOXIE_DETAIL_VERSION(major, minor, patch) \
  MOXIE_DETAIL_TEXT(major) "." MOXIE_DETAIL_TEXT(minor) "." MOXIE_DETAIL_TEXT(patch)

/// "major.minor.patch", semantic versioning.
inline constexpr std::string_view version =
    MOXIE_DETAIL_VERSION(MOXIE_VERSION_MAJOR, MOXIE_VERSION_MINOR, MOXIE_VERSION_PATCH);

#undef MOXIE_DETAIL_VERSION
#undef MOXIE_DETAIL_TEXT

}  // namespace moxie
