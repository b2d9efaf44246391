# moxie_cuda: the CUDA language and libraries for tests/cuda/*.cu. Defined only where a CUDA compiler is used.

file(GLOB moxie_cuda_tests CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/cuda/*.cu")
if(MOXIE_CUDA STREQUAL "OFF" OR (MOXIE_CUDA STREQUAL "AUTO" AND NOT moxie_cuda_tests))
  return()
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(MOXIE_CUDA STREQUAL "ON")
    message(FATAL_ERROR " moxie: MOXIE_CUDA=ON but no CUDA compiler was found: put nvcc on PATH or set CUDACXX")
  endif()
  message(STATUS "moxie: no CUDA compiler: the CUDA tests are not built")
  return()
endif()

set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real CACHE STRING "GPUs to compile for")
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25.1 does not know nvcc's -std=c++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
find_package(CUDAToolkit REQUIRED)

add_library(moxie_cuda INTERFACE)
target_link_libraries(moxie_cuda INTERFACE moxie CUDA::cudart CUDA::cublas CUDA::cublasLt)
target_compile_options(moxie_warnings INTERFACE
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>" "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings>")
