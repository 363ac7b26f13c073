"""Averages of a model's weights along its training: during a run, and over its checkpoints afterwards."""
