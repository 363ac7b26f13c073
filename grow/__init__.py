"""Grow: trains large language models from small ones instead of from noise.

Four functions are its door for notebooks and other programs; they do what the commands of the same names do.
"""

from grow.api import average_checkpoints, grow_checkpoint, load_run, speedup

__all__ = ["average_checkpoints", "grow_checkpoint", "load_run", "speedup"]
__version__ = "0.1.0"
