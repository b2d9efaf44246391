#pragma once

namespace bench {

// Defined by a source that source_state.cmake writes in each build.
extern const char* const source_commit;  ///< of the checkout that was built; "unknown" without git
/// "yes" if tracked files differed from it, "no", or "unknown"
extern const char* const source_changed;

}  // namespace bench
