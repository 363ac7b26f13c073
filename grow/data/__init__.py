"""Data: text to token shards, shards to batches whose order is a pure function of (seed, position)."""
