# `single_header`: makes moxie_single.hpp in the build tree, a release's artefact.
find_package(Python3 COMPONENTS Interpreter QUIET)
if(Python3_Interpreter_FOUND)
  add_custom_command(OUTPUT "${PROJECT_BINARY_DIR}/moxie_single.hpp"
    COMMAND Python3::Interpreter "${PROJECT_SOURCE_DIR}/tools/make_single_header.py"
      --out "${PROJECT_BINARY_DIR}/moxie_single.hpp"
    DEPENDS "${PROJECT_SOURCE_DIR}/tools/make_single_header.py" ${moxie_headers} VERBATIM)
  add_custom_target(single_header DEPENDS "${PROJECT_BINARY_DIR}/moxie_single.hpp")
endif()
