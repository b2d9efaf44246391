# Read by Conan's CMakeDeps behind the targets of moxie, where Eigen comes from the system and not from Conan.
include(CMakeFindDependencyMacro)
find_dependency(Eigen3 3.4 NO_MODULE)
target_link_libraries(moxie::moxie INTERFACE Eigen3::Eigen)
