#!/bin/sh
# A project without CMake: compiler and flags are all it needs.
set -eu
here=$(dirname "$0")
# shellcheck disable=SC2046
"${CXX:-c++}" -std=c++20 $("${PKG_CONFIG:-pkg-config}" --cflags --libs "moxie >= 0.1") "$here/../layer.cpp" -o consumer
