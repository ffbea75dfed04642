"""The catalog: facts about every backbone, and functions to query them."""
