"""Model output -> what was found. Numpy only; no I/O, no clock."""
