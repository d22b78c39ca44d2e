"""The experiments, what makes their pages, and the benchmark (bench.py), run as `python -m experiments.NAME`."""
