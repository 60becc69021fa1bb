"""Random numbers, noisy copies, and how many rows of them go through the network at once."""
