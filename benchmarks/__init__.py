"""poolkit against every peer and against the limit that memory sets: `python -m benchmarks`."""
