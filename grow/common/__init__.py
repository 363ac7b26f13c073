"""What every package may use: errors, the clock, metric names, run files. Imports nothing heavy."""
