"""Explaining Imitation Learning through Frames (R2RISE, arXiv 2301.01088): which demonstration frames matter."""
