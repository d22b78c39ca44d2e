"""What the scripts share: training helpers, checkpoints, the ledger, several GPUs, the fast sum over experts,
Branch-Train-Merge, routers that start from text, generation, grading, figures and the report. Its modules import data
and model, but no script.
"""
