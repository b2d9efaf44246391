// What docs/cuda.md takes for granted.
#pragma once

#include <moxie/core/view.hpp>

inline float *device_x = nullptr, *device_y = nullptr;
inline moxie::Index tokens = 64;
