"""Compiled kernels of `mitai.mpc.kernels`, which describes them and is how they are used."""
