"""What happens between two steps: rows of metrics, validation, probes, checkpoints, stopping for the system."""
