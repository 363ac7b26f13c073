"""Processes that work together: who they are, what they tell one another, how a run is spread over them."""
