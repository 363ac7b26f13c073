"""Averages of a model's weights along its training: in a run, and over checkpoints after it."""
