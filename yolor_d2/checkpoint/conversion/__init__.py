"""Weights of other programs as those of our networks."""
