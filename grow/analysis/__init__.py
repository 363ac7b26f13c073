"""Analyses of weights and scores: pure functions over a checkpoint directory. Knows no trainer and no harness."""
