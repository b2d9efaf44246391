# Makes the single header in WORK, compiles it alone, and builds and runs examples/01_hello_layer.cpp with it.
file(REMOVE_RECURSE "${WORK}")
file(MAKE_DIRECTORY "${WORK}/include/moxie")
execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND "${PYTHON}" "${MOXIE_SOURCE}/tools/make_single_header.py"
  --out "${WORK}/moxie_single.hpp")
file(WRITE "${WORK}/alone.cpp" "#include \"moxie_single.hpp\"\n")
# the example stays as it is: what it includes is ours to choose
file(WRITE "${WORK}/include/moxie/moxie.hpp" "#include \"../../moxie_single.hpp\"\n")

set(command "${COMPILER}" -std=c++20 -Wall -Wextra -Wconversion -Werror -isystem "${EIGEN}" -I "${WORK}/include")
execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND ${command} -fsyntax-only "${WORK}/alone.cpp")
execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND ${command} "${MOXIE_SOURCE}/examples/01_hello_layer.cpp"
  -o "${WORK}/hello_layer")
execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND "${CMAKE_COMMAND}" "-DPROGRAM=${WORK}/hello_layer"
  "-DEXPECTED=${MOXIE_SOURCE}/examples/01_hello_layer.expected" -P "${MOXIE_SOURCE}/cmake/compare_output.cmake")
