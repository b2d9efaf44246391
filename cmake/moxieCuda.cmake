# What moxie/backend/cuda.hpp needs, used by our build and by the installed package.

# Whether all of that is there: nvcc may be installed without cuBLAS.
macro(moxie_find_cuda found)
  find_package(CUDAToolkit QUIET)
  set(${found} FALSE)
  if(CUDAToolkit_FOUND AND TARGET CUDA::cublas AND TARGET CUDA::cublasLt)
    set(${found} TRUE)
  endif()
endmacro()

# Makes `target` bring the toolkit's headers and cuBLAS on top of `library`. Its users are compiled by nvcc as C++20; CMake below
# 3.25.2 does not know the flag for that, so there they say it themselves.
function(moxie_setup_cuda target library)
  target_link_libraries(${target} INTERFACE ${library} CUDA::toolkit CUDA::cublas CUDA::cublasLt)
  if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.25.2)
    target_compile_features(${target} INTERFACE cuda_std_20)
  endif()
endfunction()
