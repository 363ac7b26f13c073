"""Report: finished runs in, speed-up table, figure and page out. Reads files, never imports torch."""
