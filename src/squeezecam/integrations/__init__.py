"""Blocks in other people's training frameworks; each module imports its framework, so import only the one in use."""
