"""Views of a run's metrics.jsonl: W&B, TensorBoard, CSV. The file is the truth; a view can be lost and made again."""
