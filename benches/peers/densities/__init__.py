"""Densities of the benchmarks, by where they come from; `workloads.py` lists them by set."""
