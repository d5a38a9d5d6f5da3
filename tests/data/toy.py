"""Sources that worker processes can import."""

import numpy as np

LENGTH = 37


class Examples:
  """Single examples."""

  def __len__(self):
    return LENGTH

  def __getitem__(self, index):
    return {'x': np.full(3, index, np.float32), 'label': index}


def jitter(example, rng):
  return {**example, 'x': example['x'] + rng.random(3)}


def jitter_batch(batch, rng):
  return {**batch, 'x': batch['x'] + rng.random(batch['x'].shape)}
