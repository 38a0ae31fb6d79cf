"""The benchmark suite: this package beside its peers. `benchmarks/speed.py` runs it."""
