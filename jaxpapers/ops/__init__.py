"""Pure functions that two or more methods use. Each file is one idea; import it by name."""
