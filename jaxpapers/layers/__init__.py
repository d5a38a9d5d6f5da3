"""Flax modules that two or more rooms use."""
