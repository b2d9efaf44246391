#include "device/allocations.cpp"  // counts in this program what it counts in that one
