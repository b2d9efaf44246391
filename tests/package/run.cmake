# Configures, builds and runs the consumer of folder WAY. See CMakeLists.txt.
file(REMOVE_RECURSE "${WORK}")
if(WAY STREQUAL "pkg_config")
  file(MAKE_DIRECTORY "${WORK}/build")
  execute_process(COMMAND_ERROR_IS_FATAL ANY WORKING_DIRECTORY "${WORK}/build"
    COMMAND "${CMAKE_COMMAND}" -E env "CXX=${COMPILER}" "PKG_CONFIG=${PKG_CONFIG}"
      "PKG_CONFIG_PATH=${MOXIE_PREFIX}/share/pkgconfig" sh "${CMAKE_CURRENT_LIST_DIR}/${WAY}/build.sh")
else()
  execute_process(COMMAND_ERROR_IS_FATAL ANY
    COMMAND "${CMAKE_COMMAND}" -G "${GENERATOR}" -S "${CMAKE_CURRENT_LIST_DIR}/${WAY}" -B "${WORK}/build"
      "-DCMAKE_CXX_COMPILER=${COMPILER}" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0
      "-DCMAKE_PREFIX_PATH=${MOXIE_PREFIX}" "-DMOXIE_SOURCE=${MOXIE_SOURCE}")
  execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND "${CMAKE_COMMAND}" --build "${WORK}/build")
endif()
execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND "${WORK}/build/consumer")
