#include "all_headers.hpp"

const void* version_seen_by_two();
const void* version_seen_by_two() { return &moxie::version; }
