#!/usr/bin/env python3
"""Creates the Conan package, which trains a layer in test_package/, and builds and runs a consumer of it. A consumer whose Eigen
is the system's, and no package, is configured.

Conan is that of build/venv (scripts/install_deps conan) or of PATH; without one the test is skipped.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys


def find_conan(source):
    own = source / "build" / "venv" / "bin" / "conan"
    conan = str(own) if own.exists() else shutil.which("conan")
    if conan is None:
        return None, "there is no Conan: scripts/install_deps conan"
    asked = subprocess.run([conan, "--version"], capture_output=True, text=True)
    if asked.returncode != 0 or "version 2." not in asked.stdout:
        return None, f"{conan} is no Conan 2: {(asked.stdout + asked.stderr).strip()}"
    return conan, ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=pathlib.Path, required=True, help="the project")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="an empty folder is made of it")
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--eigen", required=True, help="folder of Eigen/")
    parser.add_argument("--nvcc", help="compiles a consumer of moxie::cuda too")
    options = parser.parse_args()
    conan, reason = find_conan(options.source)
    if conan is None:
        print("moxie: skipped:", reason)
        return
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    here = pathlib.Path(__file__).resolve().parent
    environment = {**os.environ, "CONAN_HOME": str(options.work / "home"), "CXX": options.compiler}
    settings = ["-s", "compiler.cppstd=20", "-s", "build_type=Debug", "-c", "tools.cmake.cmaketoolchain:generator=Ninja",
                "-c", "tools.cmake.cmaketoolchain:user_presets=",  # or it writes into our folder
                "-c", f"tools.build:compiler_executables={{'cpp': '{options.compiler}'}}", "--no-remote"]

    def run(*command):
        print("+", *command, flush=True)
        done = subprocess.run(command, env=environment)
        if done.returncode != 0:
            sys.exit(f"{command[0]} ended with {done.returncode}")

    # test_package/ is copied, since Conan builds inside it
    project = options.work / "moxie"
    shutil.copytree(options.source / "include", project / "include")
    shutil.copytree(options.source / "test_package", project / "test_package",
                    ignore=shutil.ignore_patterns("build", "__pycache__", "CMakeUserPresets.json"))
    for file in ("conanfile.py", "LICENSE", "cmake/conan_system_eigen.cmake"):
        (project / file).parent.mkdir(exist_ok=True)
        shutil.copy(options.source / file, project / file)

    run(conan, "profile", "detect")
    run(conan, "create", str(here / "eigen"), "-c", f"user.moxie:eigen={options.eigen}", *settings)
    run(conan, "create", str(project), *settings)

    def consume(folder, *more, profile="default", name=None, build=True):
        own = options.work / (name or folder)
        run(conan, "install", str(here / folder), "--profile", str(profile), "--output-folder", str(own), *settings)
        run("cmake", "-G", "Ninja", "-S", str(here / folder), "-B", str(own / "build"), "-DCMAKE_BUILD_TYPE=Debug",
            f"-DCMAKE_TOOLCHAIN_FILE={own / 'conan_toolchain.cmake'}", *more)
        if build:
            run("cmake", "--build", str(own / "build"))
        return own / "build"

    build = consume("consumer")
    run(str(build / "consumer"))
    run(str(build / "consumer_openmp"))

    profile = options.work / "platform"
    profile.write_text("include(default)\n[platform_requires]\neigen/3.4.0\n", encoding="utf-8")
    build = consume("consumer", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
                    f"-DCMAKE_PREFIX_PATH={pathlib.Path(options.eigen).parent.parent}", profile=profile,
                    name="platform_consumer", build=False)
    if options.eigen not in (build / "compile_commands.json").read_text(encoding="utf-8"):
        sys.exit("a consumer of the system's Eigen is not told where it lies")
    if options.nvcc:
        consume("cuda", f"-DCMAKE_CUDA_COMPILER={options.nvcc}")
    print("conan: created, tested, and consumed")


if __name__ == "__main__":
    main()
