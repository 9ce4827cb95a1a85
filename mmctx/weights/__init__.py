"""Weights of others: where they are, safe reading, a file onto one model."""
