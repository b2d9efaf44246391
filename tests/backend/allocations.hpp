#pragma once

namespace moxie::test {

/// How often any thread of this program has called operator new.
int allocations();

}  // namespace moxie::test
