"""Solvers of rate-distortion problems, batched over the problems of all samples."""
