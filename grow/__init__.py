"""Grow: trains large language models from small ones instead of from noise."""

__version__ = "0.1.0"
