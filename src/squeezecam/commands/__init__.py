"""What each command does, from parsed options to files and a summary."""
