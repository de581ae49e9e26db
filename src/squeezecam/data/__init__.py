"""Readers, data-set layouts and the embedded default."""
