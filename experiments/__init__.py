"""The paper's experiments, their report and the benchmark, run as `python -m experiments.NAME`."""
