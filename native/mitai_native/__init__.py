"""Compiled kernels of `mitai.mpc.kernels` and `mitai.proof.kernels`, which describe them and are how they are used."""
