"""What the scripts share and the method does not need: training helpers, checkpoints, the ledger, several GPUs, the fast sum
over experts, Branch-Train-Merge, generation, grading, figures and the routing page. May import data and model, but no script.
"""
