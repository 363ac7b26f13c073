"""Model families: one axis table each over the stock transformers classes."""
