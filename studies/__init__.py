"""Papers and presets in miniature, and the corpora they read."""
