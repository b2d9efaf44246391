# Install rules: headers, targets and a package file, so that find_package(moxie CONFIG) works.

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
  "${CMAKE_CURRENT_LIST_DIR}/moxieThrust.cmake"
  DESTINATION "${moxie_package_dir}" COMPONENT moxie)
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}" COMPONENT moxie)
