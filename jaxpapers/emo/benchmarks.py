"""What `launch/benchmark.py --all` times of EMO."""

from jaxpapers.engine.benchmarks import Case

CASES = (Case('emo1m_224', dtypes=('float32', 'bfloat16')),)
