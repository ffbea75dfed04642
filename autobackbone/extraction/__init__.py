"""Extracting features of many images into a table, and reading it."""
