"""Chains: ordinary runs, each grown from the last, from one command."""
