"""Model families: each has one axis table over its stock transformers classes."""
