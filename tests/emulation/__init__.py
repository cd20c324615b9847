"""Compiled kernels on a processor that this machine is not: AVX-512 with VNNI, by Bochs.

`make emulated` compiles the kernels for that processor and runs their tests with every call of theirs emulated. It says
whether the numbers are right, and nothing about speed.
"""
