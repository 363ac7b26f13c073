"""Sweeps: several runs from one command, each a process of its own."""
