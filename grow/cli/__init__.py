"""The command line: the one typed configuration, the commands that take it, and mistakes explained."""
