"""Weights: files found, fetched, matched, loaded and saved."""
