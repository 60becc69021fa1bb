"""Runs as jobs of a cluster that runs already: sent there, watched and stopped from here."""
