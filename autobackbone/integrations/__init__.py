"""Running this package's work on other systems."""
