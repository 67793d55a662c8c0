"""The door: commands, progress bars, exit codes, messages."""
