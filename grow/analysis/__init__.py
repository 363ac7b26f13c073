"""Analyses of weights and scores: functions over a checkpoint directory, without a trainer or a harness."""
