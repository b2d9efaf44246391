# Thrust for plain C++ compilers, used by our build and by the installed package.

# Sets the cache variable MOXIE_THRUST_INCLUDE_DIR: the CUDA toolkit's CCCL if there is one, else the system's Thrust.
function(moxie_find_thrust)
  find_program(MOXIE_NVCC nvcc HINTS ENV CUDA_PATH ENV CUDAToolkit_ROOT PATH_SUFFIXES bin)
  mark_as_advanced(MOXIE_NVCC MOXIE_THRUST_INCLUDE_DIR)
  set(hints)
  if(MOXIE_NVCC)
    file(REAL_PATH "${MOXIE_NVCC}" nvcc)
    cmake_path(GET nvcc PARENT_PATH toolkit)
    cmake_path(GET toolkit PARENT_PATH toolkit)
    list(APPEND hints "${toolkit}/include/cccl" "${toolkit}/include")
  endif()
  find_path(MOXIE_THRUST_INCLUDE_DIR thrust/version.h HINTS ${hints})
endfunction()

# Makes `target` bring Thrust, with both of its systems on the CPU, on top of `library`.
function(moxie_setup_thrust_host target library)
  target_link_libraries(${target} INTERFACE ${library})
  target_include_directories(${target} SYSTEM INTERFACE "${MOXIE_THRUST_INCLUDE_DIR}")
  target_compile_definitions(${target} INTERFACE
    THRUST_HOST_SYSTEM=THRUST_HOST_SYSTEM_CPP THRUST_DEVICE_SYSTEM=THRUST_DEVICE_SYSTEM_CPP)
endfunction()
