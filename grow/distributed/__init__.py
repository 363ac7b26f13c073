"""Processes that train together: their ranks, their communication, and the settings of how a run is distributed."""
