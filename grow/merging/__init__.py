"""Merges of models that were tuned from one base: task vectors thinned, voted on and added up."""
