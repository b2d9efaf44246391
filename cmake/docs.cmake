# `docs`: the site, in <build>/docs/html. See tools/make_site.py.
find_program(MOXIE_DOXYGEN doxygen)
mark_as_advanced(MOXIE_DOXYGEN)
find_package(Python3 COMPONENTS Interpreter QUIET)
if(MOXIE_DOXYGEN AND Python3_Interpreter_FOUND)
  set(moxie_make_site "${Python3_EXECUTABLE}" -B "${PROJECT_SOURCE_DIR}/tools/make_site.py"
    --doxygen "${MOXIE_DOXYGEN}" --version "${PROJECT_VERSION}")
  add_custom_target(docs COMMAND ${moxie_make_site} --out "${PROJECT_BINARY_DIR}/docs" VERBATIM)
else()
  message(STATUS "moxie: no Doxygen or no Python 3 (Debian: doxygen): the target docs is left out")
endif()
