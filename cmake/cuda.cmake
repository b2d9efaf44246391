# The CUDA language for our own tests and benchmarks (tests/cuda, bench/gpu_bench.cu), and the headers compiled by nvcc. Defines
# moxie_cuda_programs where there is a CUDA compiler.

set(moxie_cuda_programs FALSE)
if(NOT TARGET moxie_cuda)
  return()
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(MOXIE_CUDA STREQUAL "ON")
    message(FATAL_ERROR " moxie: MOXIE_CUDA=ON but no CUDA compiler was found: put nvcc on PATH or set CUDACXX")
  endif()
  message(STATUS "moxie: no CUDA compiler: what tests and measures moxie::cuda is not built")
  return()
endif()

# With AUTO for one: twice the GPUs take nearly twice as long. tests/package/cuda compiles for the other.
set(moxie_cuda_architectures 90-real)
if(MOXIE_CUDA STREQUAL "ON")
  set(moxie_cuda_architectures 80-real 90-real)
endif()
set(CMAKE_CUDA_ARCHITECTURES ${moxie_cuda_architectures} CACHE STRING "GPUs to compile for")
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25.1 does not know nvcc's -std=c++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(moxie_cuda_programs TRUE)
add_custom_target(gpu_programs)  # what scripts/gpu_check needs

target_compile_options(moxie_warnings INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>")
if(MOXIE_WERROR)
  target_compile_options(moxie_warnings INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings>")
endif()

# Each header of the GPU's side alone, by nvcc, for one architecture (tests are built for each): part of `headers`
if(TARGET headers)
  file(GLOB_RECURSE moxie_device_headers CONFIGURE_DEPENDS RELATIVE "${PROJECT_SOURCE_DIR}/include"
    "${PROJECT_SOURCE_DIR}/include/moxie/backend/cuda.hpp" "${PROJECT_SOURCE_DIR}/include/moxie/backend/cuda/*.hpp"
    "${PROJECT_SOURCE_DIR}/include/moxie/backend/device/*.hpp")
  set(moxie_device_sources)
  foreach(header IN LISTS moxie_device_headers)
    set(source "${PROJECT_BINARY_DIR}/cuda_headers/${header}.cu")
    file(CONFIGURE OUTPUT "${source}" CONTENT "#include <${header}>\n")
    list(APPEND moxie_device_sources "${source}")
  endforeach()
  add_library(moxie_cuda_headers OBJECT EXCLUDE_FROM_ALL ${moxie_device_sources})
  target_link_libraries(moxie_cuda_headers PRIVATE moxie_cuda moxie_warnings)
  set(newest ${CMAKE_CUDA_ARCHITECTURES})
  list(FILTER newest EXCLUDE REGEX "-virtual$")  # PTX alone would skip the assembler
  list(GET newest -1 newest)
  set_target_properties(moxie_cuda_headers PROPERTIES CUDA_ARCHITECTURES "${newest}")
  add_dependencies(headers moxie_cuda_headers)
endif()
