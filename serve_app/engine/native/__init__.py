"""A step of int8 weights as one call of compiled code, where there is a C++ compiler and the CPU has AVX2."""
