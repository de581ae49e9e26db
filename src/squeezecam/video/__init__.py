"""Clips: reading and writing them with their sound, native maps on disk, overlays and the strip below."""
