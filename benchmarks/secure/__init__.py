"""What the group `mpc` measures with: the same models on our engine and in floating point, and what a run takes."""
