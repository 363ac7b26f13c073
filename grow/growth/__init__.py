"""Growth: a checkpoint directory in, a bigger checkpoint directory out, proven to compute the same function."""
