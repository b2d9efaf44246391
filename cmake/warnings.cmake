# moxie_warnings: what our tests, examples and benchmarks are compiled with. Never linked by the library.

add_library(moxie_warnings INTERFACE)
target_compile_options(moxie_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wconversion;-Wshadow;-Wsign-conversion>)
if(MOXIE_WERROR)
  target_compile_options(moxie_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 reports overlapping copies in `"text" + std::string` (gcc.gnu.org/PR105651), at -O2 and above
  if(CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    target_compile_options(moxie_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
  endif()
  # the sanitizers' own code confuses GCC's flow analysis (see -fsanitize in its manual)
  if(CMAKE_CXX_FLAGS MATCHES "-fsanitize")
    target_compile_options(moxie_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
  endif()
endif()
