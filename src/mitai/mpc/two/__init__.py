"""Two parties that compute and a dealer of randomness: the setting `2+1` (`docs/spec/mpc.md`)."""
