"""Pictures of DD: the step sizes that it learned, and its blocks in the order of the steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from jaxpapers.doorping.dd_distilling import DdRecipe, DdState
from jaxpapers.doorping.lanes import Lane


def step_sizes(state: DdState) -> np.ndarray:
  """[lanes, steps], the learning rate of every inner step."""
  return np.logaddexp(0.0, np.asarray(state.blocks.raw)[..., 0])


def sizes_figure(lanes: Sequence[Lane], sizes: np.ndarray, recipe: DdRecipe) -> Any:
  """Step sizes against the step, a line per attack (the mean over seeds, all seeds behind it)."""
  figure, axis = plt.subplots(figsize=(6.4, 3.4))
  steps = np.arange(1, sizes.shape[1] + 1)
  attacks = list(dict.fromkeys(lane.attack for lane in lanes))
  for number, attack in enumerate(attacks):
    mine = sizes[[lane.attack == attack for lane in lanes]]
    axis.plot(steps, mine.mean(0), color=f'C{number}', marker='.', label=attack)
    axis.fill_between(steps, mine.min(0), mine.max(0), color=f'C{number}', alpha=0.2, lw=0)
  for border in range(recipe.blocks, sizes.shape[1], recipe.blocks):
    axis.axvline(border + 0.5, color='0.8', lw=1)
  axis.axhline(recipe.start_rate, color='0.5', lw=1, ls=':', label='start')
  axis.set(xlabel='inner step', ylabel='learning rate', xlim=(0.5, sizes.shape[1] + 0.5), ylim=(0.0, None))
  axis.legend(frameon=False)
  return figure


def blocks_figure(blocks: np.ndarray, recipe: DdRecipe, mean: np.ndarray, std: np.ndarray) -> Any:
  """A row per block, a column per class, the first image of each.

  `blocks` is [blocks, images, height, width, channels], normalised.
  """
  shown = blocks.reshape(recipe.blocks, recipe.classes, recipe.per_class, *blocks.shape[2:])[:, :, 0]
  pixels = np.clip(shown * std + mean, 0.0, 1.0)
  rows, columns, height, width, channels = pixels.shape
  sheet = np.ones((rows, height + 1, columns, width + 1, channels))
  sheet[:, :height, :, :width] = pixels.transpose(0, 2, 1, 3, 4)
  sheet = sheet.reshape(rows * (height + 1), columns * (width + 1), channels)
  figure, axis = plt.subplots(figsize=(0.55 * columns + 0.8, 0.55 * rows + 0.6))
  axis.imshow(sheet[..., 0] if channels == 1 else sheet, cmap='gray', vmin=0.0, vmax=1.0)
  axis.set_xticks((np.arange(columns) + 0.5) * (width + 1), [str(i) for i in range(columns)])
  axis.set_yticks((np.arange(rows) + 0.5) * (height + 1), [str(i + 1) for i in range(rows)])
  axis.set(xlabel='class', ylabel='block')
  axis.tick_params(length=0)
  for side in axis.spines.values():
    side.set_visible(False)
  return figure


def draw(page: Any, lanes: Sequence[Lane], state: DdState, recipe: DdRecipe, mean: np.ndarray, std: np.ndarray) -> None:
  """Both pictures; blocks of the first seed of every attack.

  Args:
    page: engine.Report.
    lanes: see Lane.
    state: of the stage.
    recipe: see DdRecipe.
    mean: [channels], of the normalisation.
    std: [channels].
  """
  sizes = step_sizes(state)
  page.heading('Learned training')
  figure = sizes_figure(lanes, sizes, recipe)
  page.figure('step_sizes', figure, f'Learning rate of each inner step; it starts at {recipe.start_rate:g}.')
  plt.close(figure)
  blocks = np.asarray(state.blocks.images)
  for number, lane in enumerate(lanes):
    if lane.seed == 0:
      figure = blocks_figure(blocks[number], recipe, mean, std)
      caption = f'{lane.attack}: blocks by inner step (row), first image of each class.'
      page.figure(f'blocks_{lane.attack}', figure, caption)
      plt.close(figure)
  page.results(step_sizes=_by_attack(lanes, sizes))


def _by_attack(lanes: Sequence[Lane], values: np.ndarray) -> Mapping[str, list]:
  return {name: values[[x.attack == name for x in lanes]].tolist() for name in dict.fromkeys(x.attack for x in lanes)}
