"""What `launch/benchmark.py --all` times: 64 masks of one learner as one program, beside loops over masks."""

from jaxpapers.engine.benchmarks import Case

CASES: tuple[Case, ...] = (Case('default', ("learners=('bc',)", 'bc.chunk=64'), ('bc',)),)
