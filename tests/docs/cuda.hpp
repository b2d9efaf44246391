#include <moxie/core/view.hpp>

// What docs/cuda.md takes for granted
inline float *device_x = nullptr, *device_y = nullptr;
inline moxie::Index tokens = 64;
