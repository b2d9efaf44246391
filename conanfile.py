"""The Conan 2 recipe of moxie: headers, and the targets that its own CMake package has.

    conan create . --build=missing -s compiler.cppstd=20
"""

import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy, load

required_conan_version = ">=2.0"


class MoxieConan(ConanFile):
    name = "moxie"
    description = "Mixture-of-experts layers: header-only C++20"
    license = "Apache-2.0"
    topics = ("mixture-of-experts", "neural-networks", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {
        "threads": [True, False],  # moxie::threads
        "openmp": [True, False],  # moxie::openmp
        "thrust_host": [True, False],  # moxie::thrust_host; Thrust's headers are the compiler's to find
        "cuda": [True, False],  # moxie::cuda, for sources that nvcc compiles; the toolkit is the system's, of CUDA 13
    }
    default_options = {"threads": True, "openmp": False, "thrust_host": False, "cuda": False}
    exports_sources = "include/*", "LICENSE", "cmake/conan_system_eigen.cmake"
    no_copy_source = True

    def set_version(self):
        # include/moxie/version.hpp is the one place that states the version
        text = load(self, os.path.join(self.recipe_folder, "include", "moxie", "version.hpp"))
        self.version = ".".join(re.search(rf"#define MOXIE_VERSION_{part} (\d+)", text).group(1)
                                for part in ("MAJOR", "MINOR", "PATCH"))

    def requirements(self):
        self.requires("eigen/[>=3.4 <4]", transitive_headers=True)

    def validate(self):
        check_min_cppstd(self, 20)

    def package_id(self):
        self.info.clear()  # the same headers for every setting; options only choose targets

    def package(self):
        copy(self, "*", os.path.join(self.source_folder, "include"), os.path.join(self.package_folder, "include"))
        copy(self, "*.cmake", self.source_folder, self.package_folder)
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))

    def package_info(self):
        self.cpp_info.bindirs = self.cpp_info.libdirs = []
        # else the whole package would have the name of its first component
        self.cpp_info.set_property("cmake_target_name", "moxie::all")
        self.cpp_info.set_property("pkg_config_name", "moxie-all")
        # Eigen of the system, by a profile's [platform_requires], is no package: CMake finds it
        packaged = any(dependency.ref.name == "eigen" for dependency in self.dependencies.host.values())
        self.component("moxie", ["eigen::eigen"] if packaged else [])
        if not packaged:
            self.cpp_info.set_property("cmake_build_modules", [os.path.join("cmake", "conan_system_eigen.cmake")])
        if self.options.threads:
            threads = self.component("threads", ["moxie"])
            if self.settings.os in ("Linux", "FreeBSD"):
                threads.system_libs = ["pthread"]
        if self.options.openmp:
            openmp = self.component("openmp", ["moxie"])
            flags = ["-openmp"] if self.settings.compiler == "msvc" else ["-fopenmp"]
            openmp.cxxflags = openmp.sharedlinkflags = openmp.exelinkflags = flags
        if self.options.thrust_host:
            thrust = self.component("thrust_host", ["moxie"])
            thrust.defines = ["THRUST_HOST_SYSTEM=THRUST_HOST_SYSTEM_CPP",
                              "THRUST_DEVICE_SYSTEM=THRUST_DEVICE_SYSTEM_CPP"]
        if self.options.cuda:
            # nvcc finds its own headers and libraries
            self.component("cuda", ["moxie"]).system_libs = ["cublas", "cublasLt"]

    def component(self, name, requires):
        component = self.cpp_info.components[name]
        component.set_property("cmake_target_name", f"moxie::{name}")
        component.set_property("pkg_config_name", "moxie" if name == "moxie" else f"moxie-{name}")
        component.requires = requires
        component.bindirs = component.libdirs = []
        return component
