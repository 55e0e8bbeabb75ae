"""Benchmarks: suites of runs, such as those of the paper, run on Ray, and their report."""
