"""Class-balanced grouping and sampling (Zhu et al., 2019): keyframes with rare classes are seen more often."""

from collections.abc import Sequence

import numpy as np

from jaxpapers.cmt.metrics import CLASSES
from jaxpapers.cmt.nuscenes import NuScenes
from jaxpapers.engine.errors import UserError


def present_classes(dataset: NuScenes, tokens: Sequence[str], classes: Sequence[str] = CLASSES) -> np.ndarray:
  """bool [samples, classes]: which classes a sample has a box of, however few points hit it."""
  return np.stack([np.isin(classes, dataset.class_names(token)) for token in tokens])


def resample(present: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """int [n]: indices of samples, about as many for every class.

  Each class has a list of the samples that hold it. Of every list, 1 / classes of the lists' total length is drawn with
  replacement; a class that no sample holds has no share.

  Args:
    present: bool [samples, classes].
    rng: source of randomness; drawn from once, before training.

  Raises:
    UserError: if no sample holds any class.
  """
  if not present.any():
    raise UserError('No sample holds an object of any class: nothing can be balanced.')
  share = int(present.sum()) // present.shape[1]
  lists = (np.flatnonzero(column) for column in present.T)
  return np.concatenate([rng.choice(samples, share) for samples in lists if samples.size])
