"""The catalog: what is known of every backbone, and questions to it."""
