"""What the scripts share: options, checkpoints, devices, the fast path, Branch-Train-Merge, grading, figures, the routing page.

May import model.py and data/, but no script.
"""
import sys

if sys.platform == "win32":
    sys.exit("On Windows, run this inside WSL: files are locked and runs are stopped in the manner of Linux and macOS.")
