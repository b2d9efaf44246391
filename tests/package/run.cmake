# Installs moxie (for find_package), then configures, builds and runs the consumer of folder WAY. See CMakeLists.txt.
file(REMOVE_RECURSE "${WORK}")
if(WAY STREQUAL "find_package")
  execute_process(COMMAND_ERROR_IS_FATAL ANY
    COMMAND "${CMAKE_COMMAND}" --install "${MOXIE_BUILD}" --component moxie --prefix "${WORK}/prefix")
  set(where "-DCMAKE_PREFIX_PATH=${WORK}/prefix")
else()
  set(where "-DMOXIE_SOURCE=${MOXIE_SOURCE}")
endif()
execute_process(COMMAND_ERROR_IS_FATAL ANY
  COMMAND "${CMAKE_COMMAND}" -G "${GENERATOR}" -S "${CMAKE_CURRENT_LIST_DIR}/${WAY}" -B "${WORK}/build"
    "-DCMAKE_CXX_COMPILER=${COMPILER}" -DCMAKE_BUILD_TYPE=Debug ${where})
execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND "${CMAKE_COMMAND}" --build "${WORK}/build")
execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND "${WORK}/build/consumer")
