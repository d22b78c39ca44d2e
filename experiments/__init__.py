"""The paper's experiments, their report and the benchmark, as `python -m experiments.NAME`.

May import everything; nothing imports them.
"""
