"""Masks that say which part of an input keeps the output when the rest is noise."""
