"""What the scripts share: training helpers, checkpoints, the ledger, several GPUs, the fast sum over experts,
Branch-Train-Merge, generation, grading and figures. It may import data and model, but no script.
"""
