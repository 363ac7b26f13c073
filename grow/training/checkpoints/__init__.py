"""Checkpoints of a run: written, read back, grown, and exported."""
