"""Outlines and named points of objects, as arrays."""
