"""Linear models of how a network depends on its features, fitted to many samples at once."""
