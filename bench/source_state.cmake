# cmake -DSOURCE=<checkout> -DOUT=<file.cpp> [-DGIT=<program>] -P source_state.cmake
# Writes what source_state.hpp declares; a file that would be the same is left as it is. Never fails for want of git.
set(commit unknown)
set(changed unknown)
if(GIT)
  execute_process(COMMAND "${GIT}" -C "${SOURCE}" rev-parse HEAD
    RESULT_VARIABLE failed OUTPUT_VARIABLE said ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(failed EQUAL 0 AND said MATCHES "^[0-9a-f]+$")
    set(commit "${said}")
    execute_process(COMMAND "${GIT}" -C "${SOURCE}" --no-optional-locks status --porcelain --untracked-files=no
      RESULT_VARIABLE failed OUTPUT_VARIABLE said ERROR_QUIET)
    if(failed EQUAL 0 AND said STREQUAL "")
      set(changed no)
    elseif(failed EQUAL 0)
      set(changed yes)
    endif()
  endif()
endif()
file(CONFIGURE OUTPUT "${OUT}" @ONLY CONTENT [[
#include "source_state.hpp"

const char* const bench::source_commit = "@commit@";
const char* const bench::source_changed = "@changed@";
]])
