#pragma once

namespace moxie::test {

/// How often any thread of this program has called operator new: allocations.cpp replaces it.
int allocations();

}  // namespace moxie::test
