# The library: moxie::moxie and its opt-in companions moxie::threads, moxie::openmp, moxie::thrust_host and moxie::cuda.

find_package(Eigen3 3.4 REQUIRED NO_MODULE)

file(GLOB_RECURSE moxie_headers CONFIGURE_DEPENDS
  "${PROJECT_SOURCE_DIR}/include/moxie/*.hpp" "${PROJECT_SOURCE_DIR}/include/moxie/*.cuh")
# Headers that need a further library or nvcc are installed too, but not compiled alone with the plain target.
set(moxie_special_headers ${moxie_headers})
list(FILTER moxie_special_headers INCLUDE REGEX
  "/moxie/backend/cuda[./]|/moxie/backend/(thrust_host|openmp_executor)[.]hpp$|/moxie/dist/(mpi|nccl)[.]hpp$")
set(moxie_plain_headers ${moxie_headers})
if(moxie_special_headers)
  list(REMOVE_ITEM moxie_plain_headers ${moxie_special_headers})
endif()

add_library(moxie INTERFACE)
add_library(moxie::moxie ALIAS moxie)
target_compile_features(moxie INTERFACE cxx_std_20)
target_link_libraries(moxie INTERFACE Eigen3::Eigen)
if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.23)
  target_sources(moxie INTERFACE
    FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${moxie_plain_headers}
    FILE_SET special_headers TYPE HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${moxie_special_headers})
  set_target_properties(moxie PROPERTIES
    VERIFY_INTERFACE_HEADER_SETS ${PROJECT_IS_TOP_LEVEL}
    INTERFACE_HEADER_SETS_TO_VERIFY HEADERS)
else()
  target_include_directories(moxie INTERFACE
    "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>" "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
endif()

# moxie_verify_header(<target> <header>): `headers` compiles that header of include/moxie with what the target brings
function(moxie_verify_header target header)
  if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.23)
    target_sources(${target} INTERFACE FILE_SET HEADERS
      BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES "${PROJECT_SOURCE_DIR}/include/moxie/${header}")
    set_target_properties(${target} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ${PROJECT_IS_TOP_LEVEL})
  endif()
endfunction()

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
add_library(moxie_threads INTERFACE)
add_library(moxie::threads ALIAS moxie_threads)
set_target_properties(moxie_threads PROPERTIES EXPORT_NAME threads)
target_link_libraries(moxie_threads INTERFACE moxie Threads::Threads)

if(MOXIE_OPENMP)
  find_package(OpenMP COMPONENTS CXX QUIET)
  if(TARGET OpenMP::OpenMP_CXX)
    add_library(moxie_openmp INTERFACE)
    add_library(moxie::openmp ALIAS moxie_openmp)
    target_link_libraries(moxie_openmp INTERFACE moxie OpenMP::OpenMP_CXX)
    moxie_verify_header(moxie_openmp backend/openmp_executor.hpp)
  else()
    message(STATUS "moxie: this compiler has no OpenMP: moxie::openmp is left out")
  endif()
endif()

include("${CMAKE_CURRENT_LIST_DIR}/moxieThrust.cmake")
moxie_find_thrust()
if(MOXIE_THRUST_INCLUDE_DIR)
  add_library(moxie_thrust_host INTERFACE)
  add_library(moxie::thrust_host ALIAS moxie_thrust_host)
  moxie_setup_thrust_host(moxie_thrust_host moxie)
  set(moxie_thrust_header "${PROJECT_SOURCE_DIR}/include/moxie/backend/thrust_host.hpp")
  moxie_verify_header(moxie_thrust_host backend/thrust_host.hpp)
else()
  message(STATUS "moxie: no Thrust headers (Debian: libthrust-dev): moxie::thrust_host is left out")
endif()

include("${CMAKE_CURRENT_LIST_DIR}/moxieCuda.cmake")
if(NOT MOXIE_CUDA STREQUAL "OFF")
  moxie_find_cuda(moxie_has_cuda)
  if(moxie_has_cuda)
    add_library(moxie_cuda INTERFACE)
    add_library(moxie::cuda ALIAS moxie_cuda)
    moxie_setup_cuda(moxie_cuda moxie)
  elseif(MOXIE_CUDA STREQUAL "ON")
    message(FATAL_ERROR " moxie: MOXIE_CUDA=ON but no CUDA toolkit with cuBLAS was found: put nvcc on PATH or set CUDAToolkit_ROOT")
  else()
    message(STATUS "moxie: no CUDA toolkit with cuBLAS: moxie::cuda is left out")
  endif()
endif()

# `headers`: compiles each header alone
if(PROJECT_IS_TOP_LEVEL AND CMAKE_VERSION VERSION_GREATER_EQUAL 3.24)
  add_custom_target(headers)
  add_dependencies(headers all_verify_interface_header_sets)
endif()
