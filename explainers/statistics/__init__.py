"""Moments and low-rank factors of samples that are never in memory all at once."""
