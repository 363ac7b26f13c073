"""Ratios against peers and limits: python -m benchmarks.NAME --help

A command is NAME.py: arguments, rounds, figures. What it times is in NAME_contestants.py, which alone imports what is
heavy. What several share is in cases.py (models and data) and forks.py (processes).
"""
