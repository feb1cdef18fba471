"""Reference values: what should have been measured, and who says so."""
