"""Estimates: what a run will need in memory, hours and disk, before it starts."""
