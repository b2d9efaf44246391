"""Eigen of this machine as a Conan package, so that the test needs no remote."""

import os

from conan import ConanFile
from conan.tools.files import copy


class EigenOfTheSystem(ConanFile):
    name = "eigen"
    version = "3.4.0"
    package_type = "header-library"

    def package_id(self):
        self.info.clear()

    def package(self):
        copy(self, "Eigen/*", self.conf.get("user.moxie:eigen"), os.path.join(self.package_folder, "include"))

    def package_info(self):
        self.cpp_info.bindirs = self.cpp_info.libdirs = []
        self.cpp_info.set_property("cmake_file_name", "Eigen3")
        self.cpp_info.set_property("cmake_target_name", "Eigen3::Eigen")
