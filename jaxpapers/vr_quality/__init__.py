"""Perceptual quality of 360-degree videos, along scanpaths and on the sphere (arXiv 2206.08751)."""
