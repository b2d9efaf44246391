# Installs moxie of the build tree MOXIE_BUILD into FIRST and moves it to PREFIX: nothing may name the place it came from.
cmake_path(GET FIRST PARENT_PATH first_folder)
cmake_path(GET PREFIX PARENT_PATH moved_folder)
file(REMOVE_RECURSE "${first_folder}" "${moved_folder}")
execute_process(COMMAND_ERROR_IS_FATAL ANY
  COMMAND "${CMAKE_COMMAND}" --install "${MOXIE_BUILD}" --component moxie --prefix "${FIRST}")
file(MAKE_DIRECTORY "${moved_folder}")
file(RENAME "${FIRST}" "${PREFIX}")

file(GLOB_RECURSE package_files "${PREFIX}/*.cmake" "${PREFIX}/*.pc")
list(LENGTH package_files count)
if(count LESS 5)
  message(FATAL_ERROR "expected the package files of CMake and pkg-config in ${PREFIX}, there are: ${package_files}")
endif()
foreach(file IN LISTS package_files)
  file(READ "${file}" text)
  foreach(place IN ITEMS "${first_folder}" "${MOXIE_SOURCE}" "${MOXIE_BUILD}")
    string(FIND "${text}" "${place}" found)
    if(NOT found EQUAL -1)
      message(FATAL_ERROR "${file} names ${place}: the package cannot be moved")
    endif()
  endforeach()
endforeach()

# A component that there is none of is named, and those that there are
set(asks "${moved_folder}/asks")
file(WRITE "${asks}/CMakeLists.txt" "cmake_minimum_required(VERSION 3.22)\nproject(asks LANGUAGES CXX)\n"
  "find_package(moxie CONFIG REQUIRED COMPONENTS threads opencl)\n")
execute_process(COMMAND "${CMAKE_COMMAND}" -S "${asks}" -B "${asks}/build" "-DCMAKE_PREFIX_PATH=${PREFIX}"
  OUTPUT_QUIET ERROR_VARIABLE said RESULT_VARIABLE code)
if(code EQUAL 0 OR NOT said MATCHES "component opencl: there is none of that name" OR said MATCHES "component threads")
  message(FATAL_ERROR "a component that there is none of: ${said}")
endif()
