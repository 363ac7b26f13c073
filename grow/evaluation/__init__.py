"""Evaluation: any checkpoint in, its scores on the harness's tasks and on held-out text out."""
