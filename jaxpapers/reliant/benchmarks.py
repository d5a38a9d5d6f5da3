"""What `launch/benchmark.py --all` times of RELIANT."""

from jaxpapers.engine.benchmarks import Case

CASES = (Case('benchmark'),)
