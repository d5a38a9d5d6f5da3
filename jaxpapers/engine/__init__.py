"""Runs an Experiment: mesh, compilation, checkpoints, metrics, reports. Knows no paper.

Names are loaded on first use, so that a config can import `default_config` without importing JAX.
"""

import importlib

_WHERE = {
  'default_config': 'config',
  'variant': 'config',
  'UserError': 'errors',
  'NonFiniteError': 'errors',
  'DamagedError': 'errors',
  'PreemptedError': 'errors',
  'suggest': 'errors',
  'Experiment': 'experiment',
  'Stage': 'experiment',
  'Evaluation': 'experiment',
  'BatchFn': 'experiment',
  'FSDP': 'experiment',
  'REPLICATED': 'experiment',
  'supervised': 'training',
  'Supervised': 'training',
  'TrainState': 'training',
  'pmean': 'training',
  'Report': 'report',
  'load_variables': 'weights',
  'merge_variables': 'weights',
  'axis_name': 'parallel',
  'run': 'loop',
}

__all__ = list(_WHERE)


def __getattr__(name: str):
  if name not in _WHERE:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_WHERE[name]}'), name)
