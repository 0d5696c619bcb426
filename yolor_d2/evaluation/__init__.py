"""Evaluators, and what is made of their metrics."""
