"""Views of a run's metrics.jsonl in W&B, TensorBoard and CSV. A lost view can be made again from that file."""
