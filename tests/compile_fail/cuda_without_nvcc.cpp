// expects: moxie/backend/cuda.hpp: compile this file with nvcc
#ifdef MOXIE_FAIL
#include "moxie/backend/cuda.hpp"
#endif

int main() { return 0; }
