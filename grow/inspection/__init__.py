"""Looking at training data: what a run reads at a step, and what the sources hold."""
