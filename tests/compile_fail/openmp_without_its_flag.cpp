// expects: moxie/backend/openmp_executor.hpp needs OpenMP: link moxie::openmp, or compile with -fopenmp
#ifdef MOXIE_FAIL
#include "moxie/backend/openmp_executor.hpp"
#endif

int main() { return 0; }
