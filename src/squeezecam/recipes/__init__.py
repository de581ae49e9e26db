"""Whole pieces of work, from a data set in its official layout to trained models, tables and pictures."""
