"""Token shards out of texts, or a manifest for shards that exist: tasks, inputs, tokenizing, restart."""
