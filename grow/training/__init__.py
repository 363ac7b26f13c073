"""Training: a small LightningModule around a stock model, and what it takes to run it."""
