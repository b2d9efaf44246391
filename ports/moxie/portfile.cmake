# An overlay port that takes moxie from the tree it lies in: vcpkg install moxie --overlay-ports=<moxie>/ports
set(VCPKG_BUILD_TYPE release)  # headers only
cmake_path(SET SOURCE_PATH NORMALIZE "${CMAKE_CURRENT_LIST_DIR}/../..")

vcpkg_cmake_configure(SOURCE_PATH "${SOURCE_PATH}" OPTIONS
  -DMOXIE_BUILD_TESTS=OFF -DMOXIE_BUILD_EXAMPLES=OFF -DMOXIE_BUILD_BENCH=OFF -DMOXIE_OPENMP=OFF -DMOXIE_INSTALL=ON)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH lib/cmake/moxie)
vcpkg_fixup_pkgconfig()

file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/lib" "${CURRENT_PACKAGES_DIR}/share/doc")
