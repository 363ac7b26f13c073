"""Evaluation: any checkpoint in, scores of the harness's tasks and of held-out text out."""
