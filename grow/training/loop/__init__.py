"""What happens between two steps: rows, validation, probes, checkpoints, giving way to the system."""
