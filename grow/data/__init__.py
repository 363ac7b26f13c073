"""Data: texts to token shards, and shards to batches whose order is a pure function of seed and position."""
