"""Explaining Imitation Learning through Frames (R2RISE, arXiv 2301.01088): which demonstration frames matter.

A learner is retrained on many random subsets of the frames; a frame matters by what the return of the learned policy
gains when it is kept. Here: retraining as one compiled program, maps with standard errors from sums that stream and
merge, tests of a map, retraining curves, and the learners BC, GAIL and BCO.

    from jaxpapers import r2rise
    game = r2rise.make_forks()
    demos, truth = r2rise.forks_demonstrations()
    learner = r2rise.behaviour_cloning(network, optax.adam(1e-2), r2rise.BcOptions())  # or three things of your own
    found = r2rise.explain(learner, game, demos, jax.random.key(0), masks=512)
    found.importance.value  # [2, 40]; .error and .freedom beside it
"""

import importlib

_WHERE = {
  'explain': 'explanation',
  'Explanation': 'explanation',
  'ReturnsLog': 'returns_log',
  'sample_cells': 'masks',
  'sample_masks': 'masks',
  'smooth_masks': 'masks',
  'Statistics': 'importance',
  'ImportanceMap': 'importance',
  'importance_init': 'importance',
  'importance_update': 'importance',
  'importance_merge': 'importance',
  'finalise': 'importance',
  'importance_map': 'importance',
  'confidence_interval': 'importance',
  'equality_test': 'statistics',
  'discoveries': 'statistics',
  'split_half_reliability': 'statistics',
  'agreement': 'statistics',
  'sequential_reliability': 'statistics',
  'truth_scores': 'statistics',
  'Demonstrations': 'demos',
  'make_demonstrations': 'demos',
  'pad_trajectories': 'demos',
  'Environment': 'environments',
  'Learner': 'learners',
  'make_frames': 'learners',
  'train_masked': 'learners',
  'behaviour_cloning': 'bc',
  'BcOptions': 'bc',
  'retrain_curve': 'retrain',
  'make_forks': 'forks',
  'forks_demonstrations': 'forks',
  'make_breakout10': 'breakout10',
  'noisy_expert': 'breakout10',
}

__all__ = list(_WHERE)


def __getattr__(name: str):
  if name not in _WHERE:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_WHERE[name]}'), name)
