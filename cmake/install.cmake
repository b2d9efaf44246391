# Install rules: headers, targets, and package files for find_package(moxie CONFIG) and for pkg-config.

include(CMakePackageConfigHelpers)
set(moxie_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/moxie")

if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.23)
  install(TARGETS moxie moxie_threads EXPORT moxieTargets
    FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT moxie
    FILE_SET special_headers DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT moxie)
else()
  install(TARGETS moxie moxie_threads EXPORT moxieTargets)
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/moxie" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT moxie)
endif()
install(EXPORT moxieTargets NAMESPACE moxie:: DESTINATION "${moxie_package_dir}" COMPONENT moxie)

configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/moxieConfig.cmake.in"
  "${PROJECT_BINARY_DIR}/moxieConfig.cmake" INSTALL_DESTINATION "${moxie_package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/moxieConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES
  "${PROJECT_BINARY_DIR}/moxieConfig.cmake" "${PROJECT_BINARY_DIR}/moxieConfigVersion.cmake"
  "${CMAKE_CURRENT_LIST_DIR}/moxieThrust.cmake" "${CMAKE_CURRENT_LIST_DIR}/moxieCuda.cmake"
  DESTINATION "${moxie_package_dir}" COMPONENT moxie)

# pkg-config: the prefix is where the file lies, so that an installed tree can be moved
set(moxie_pkgconfig_dir "${CMAKE_INSTALL_DATADIR}/pkgconfig")
set(moxie_root "/moxie-root")  # any folder: only the way from one to the other counts
file(RELATIVE_PATH moxie_up "${moxie_root}/${moxie_pkgconfig_dir}" "${moxie_root}")
cmake_path(SET moxie_pc_prefix NORMALIZE "${moxie_up}")
string(REGEX REPLACE "/$" "" moxie_pc_prefix "${moxie_pc_prefix}")
set(moxie_pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
if(IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")  # whoever sets that does not move the tree
  set(moxie_pc_includedir "${CMAKE_INSTALL_INCLUDEDIR}")
endif()
configure_file("${CMAKE_CURRENT_LIST_DIR}/moxie.pc.in" "${PROJECT_BINARY_DIR}/moxie.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/moxie.pc" DESTINATION "${moxie_pkgconfig_dir}" COMPONENT moxie)

install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}" COMPONENT moxie)
