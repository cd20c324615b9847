"""A step in fp32, or with weights in 8 bits, as one call of compiled code, where there is a compiler and AVX2."""
