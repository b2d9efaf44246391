#include "all_headers.hpp"

const void* version_seen_by_two();

// An inline variable has one address in the whole program.
int main() { return version_seen_by_two() == &moxie::version ? 0 : 1; }
