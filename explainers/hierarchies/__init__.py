"""Hierarchies of cells: which parts of a sample belong together for a class, by their scores."""
