# Makes the single header in WORK, compiles it alone, and builds and runs examples/01_hello_layer.cpp with it.
file(REMOVE_RECURSE "${WORK}")
file(MAKE_DIRECTORY "${WORK}/include/moxie")
execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND "${PYTHON}" "${MOXIE_SOURCE}/tools/make_single_header.py"
  --out "${WORK}/moxie_single.hpp")
# further headers are added to those, by either name; what cannot be written is one line
execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND "${PYTHON}" "${MOXIE_SOURCE}/tools/make_single_header.py"
  --out "${WORK}/more.hpp" robust/certificate.hpp moxie/robust/pgd.hpp)
file(READ "${WORK}/more.hpp" more)
foreach(header IN ITEMS moxie/moxie.hpp moxie/robust/certificate.hpp moxie/robust/pgd.hpp)
  if(NOT more MATCHES "// ---- ${header}")
    message(FATAL_ERROR "a single header with two more has no ${header}")
  endif()
endforeach()
execute_process(COMMAND "${PYTHON}" "${MOXIE_SOURCE}/tools/make_single_header.py" --out "${WORK}/nowhere/single.hpp"
  RESULT_VARIABLE code ERROR_VARIABLE said)
if(code EQUAL 0 OR NOT said MATCHES "^make_single_header: [^\n]*No such file[^\n]*\n$")
  message(FATAL_ERROR "a folder that is not there: ${said}")
endif()
file(WRITE "${WORK}/alone.cpp" "#include \"moxie_single.hpp\"\n")
# the example stays as it is: what it includes is ours to choose
file(WRITE "${WORK}/include/moxie/moxie.hpp" "#include \"../../moxie_single.hpp\"\n")

set(command "${COMPILER}" -std=c++20 -Wall -Wextra -Wconversion -Werror -isystem "${EIGEN}" -I "${WORK}/include")
execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND ${command} -fsyntax-only "${WORK}/alone.cpp")
execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND ${command} "${MOXIE_SOURCE}/examples/01_hello_layer.cpp"
  -o "${WORK}/hello_layer")
execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND "${CMAKE_COMMAND}" "-DPROGRAM=${WORK}/hello_layer"
  "-DEXPECTED=${MOXIE_SOURCE}/examples/01_hello_layer.expected" -P "${MOXIE_SOURCE}/cmake/compare_output.cmake")
