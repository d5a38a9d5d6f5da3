"""Settings: one file a method, read top to bottom."""
