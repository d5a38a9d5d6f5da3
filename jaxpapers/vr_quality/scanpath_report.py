"""Pictures and tables of the scanpath predictor: model, people and chance on videos that were not trained on."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxpapers.vr_quality import saliency, walks
from jaxpapers.vr_quality.alignment import dtw, frechet, levenshtein
from jaxpapers.vr_quality.pictures import globe, over_time, overlay, scanpaths_on_erp
from jaxpapers.vr_quality.scanpath_data import Scene, equator_starts, look_at_map, scene_maps
from jaxpapers.vr_quality.scanpath_metrics import all_pairs, mean_off_diagonal, recurrence, synchronous
from jaxpapers.vr_quality.scanpath_model import ScanpathPredictor, sample_path

_HEIGHT = 64
_SIGMA = 8.0 / 180.0 * np.pi
_WALKS = ('stay', 'constant velocity', 'random walk')


def draw(
  page: Any,
  model: ScanpathPredictor,
  states: Mapping[str, Any],
  train: list[Scene],
  test: list[Scene],
  seed: int,
) -> None:
  """Likelihoods, set comparison, saliency of samples, and pictures of the first test scene."""
  fitted = walks.fit(np.concatenate([s.paths for s in train]), np.concatenate([s.length for s in train]))
  likelihoods(page, states)
  observers = min(len(scene.paths) for scene in test)
  paths = jnp.asarray(np.stack([scene.paths[:observers] for scene in test]))
  lengths = jnp.asarray(np.stack([scene.length[:observers] for scene in test]))
  sets = {'people': paths}
  for number, name in enumerate(states):
    sets[f'model ({name})'] = _samples(model, states[name], test, paths, jax.random.key(seed + number), name)
  keys = jax.random.split(jax.random.key(seed + 100), paths.shape[:2])

  @jax.jit
  def walk(starts):
    def one(key, start):
      return walks.sample_path(key, fitted['random walk'], start, paths.shape[2])

    return jax.vmap(jax.vmap(one))(keys, starts)

  sets['random walk'] = walk(paths[:, :, 0])
  starts = jnp.asarray(equator_starts(seed, paths.shape[0] * observers)).reshape(*paths.shape[:2], 3)
  sets['chance'] = walk(starts)
  compare(page, sets, paths, lengths)
  first = {name: np.asarray(values[0]) for name, values in sets.items()}
  pictures(page, first, test[0])


def likelihoods(page: Any, states: Mapping[str, Any]) -> None:
  """Nats per step of the models and of the fitted walks."""
  page.heading('How well is the next displacement predicted?')
  rows = [[name, page.final[name]['test/nll']] for name in states]
  first = page.final[next(iter(states))]
  rows += [[f'{name} (fitted covariance)', first[f'test/nll_{name.replace(" ", "_")}']] for name in _WALKS]
  page.table(['model', 'nats per step'], rows, 'Negative log density per step on unseen videos; lower is better.')
  page.results(nats_per_step=dict(rows))


def compare(page: Any, sets: Mapping[str, jax.Array], people: jax.Array, lengths: jax.Array) -> None:
  """Mean over all pairs with the people of the same video; people with each other for themselves."""
  metrics = {
    'DTW (rad)': dtw,
    'Fréchet (rad)': frechet,
    'Levenshtein': levenshtein,
    'same time (rad)': synchronous,
    'DET (%)': lambda p, q, n, m: recurrence(p, q, n, m).det,
  }

  @jax.jit
  def table(own, own_lengths):
    def scene(p, q, n, m):
      return {name: all_pairs(metric, p, q, n, m) for name, metric in metrics.items()}

    found = jax.vmap(scene)(own, people, own_lengths, lengths)
    everyone = {name: jnp.mean(x) for name, x in found.items()}
    others = {name: jnp.mean(jax.vmap(mean_off_diagonal)(x.astype(jnp.float32))) for name, x in found.items()}
    return everyone, others

  rows = []
  for name, own in sets.items():
    counts = lengths if name == 'people' else jnp.full(own.shape[:2], own.shape[2])
    everyone, others = table(own, counts)
    found = others if name == 'people' else everyone
    rows.append([name, *(float(found[metric]) for metric in metrics)])
  page.heading('Generated scanpaths beside recorded ones')
  page.table(
    ['paths', *metrics],
    rows,
    'Mean over all pairs (row x people of the same unseen video). A good model lies between chance and people; '
    'chance starts anywhere on the equator.',
  )
  page.results(set_comparison={row[0]: dict(zip(metrics, row[1:], strict=True)) for row in rows})


def pictures(page: Any, sets: Mapping[str, np.ndarray], scene: Scene) -> None:
  """Paths, saliency and consistency of one unseen scene."""
  names = [*sets, 'equator']
  maps, scores = (np.asarray(x) for x in _saliency(jnp.asarray(np.stack(list(sets.values()))), sets['people']))
  maps = dict(zip(names, maps, strict=True))
  rows = [[name, *map(float, row)] for name, row in zip(names, scores, strict=True)]
  page.heading(f'One unseen video: {scene.name}')
  page.table(['saliency of', 'CC', 'NSS', 'AUC'], rows, 'Against the fixations of the people, solid-angle weights.')
  shown = [name for name in sets if name != 'random walk']
  figure, axes = plt.subplots(len(shown), 1, figsize=(8, 3.6 * len(shown)), layout='constrained')
  for axis, name in zip(axes, shown, strict=True):
    dots = scanpaths_on_erp(axis, sets[name], title=name)
    for point in scene.attractors:
      lon, lat = np.arctan2(point[1], point[0]), np.arcsin(point[2])
      axis.plot(np.rad2deg(lon), np.rad2deg(lat), marker='x', color='black', ms=9, mew=2)
  figure.colorbar(dots, ax=axes, label='step', shrink=0.4)
  page.figure(
    'scanpaths', figure, 'Scanpaths of all observers, coloured by time; a star marks the start, x attractors.'
  )
  plt.close(figure)
  figure = plt.figure(figsize=(11, 3.4), layout='constrained')
  grid = figure.add_gridspec(1, 3, width_ratios=(2, 1, 1))
  start = sets['people'][0, 0]
  overlay(figure.add_subplot(grid[0]), maps['people'], sets['people'])
  globe(figure.add_subplot(grid[1]), maps['people'], start, 'people, seen from the start')
  model = next(name for name in reversed(list(sets)) if name.startswith('model'))
  globe(figure.add_subplot(grid[2]), maps[model], start, model)
  page.figure('saliency', figure, 'Where the people looked: density over the panorama and on globes.')
  plt.close(figure)
  over_time(page, 'consistency', {name: sets[name] for name in sets}, 'step')


def _samples(model, state, test, paths, key, name) -> jax.Array:
  keys = jax.random.split(key, paths.shape[:2])
  variables = state.variables()
  steps = paths.shape[2]

  def one(key, start, values):
    look = look_at_map(values) if name.endswith('seeing') else None
    return sample_path(key, model, variables, start, steps, look)

  values = scene_maps(test) if name.endswith('seeing') else jnp.zeros((len(test), 1, 1))
  return jax.jit(jax.vmap(jax.vmap(one, in_axes=(0, 0, None))))(keys, paths[:, :, 0], values)


@jax.jit
def _saliency(sets: jax.Array, people: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Maps [sets + 1, height, width] of sets of paths and, last, the equator; CC, NSS and AUC of each with the people."""
  points = sets.reshape(len(sets), -1, 3)
  maps = jax.vmap(lambda x: saliency.vmf_map(x, _HEIGHT, 2 * _HEIGHT, _SIGMA))(points)
  maps = jnp.concatenate([maps, saliency.equator(_HEIGHT, 2 * _HEIGHT)[None]])
  fixations = people.reshape(-1, 3)
  truth = saliency.vmf_map(fixations, _HEIGHT, 2 * _HEIGHT, _SIGMA)

  def scores(x):
    return jnp.stack([saliency.correlation(x, truth), saliency.nss(x, fixations), saliency.auc(x, fixations)])

  return maps, jax.lax.map(scores, maps)
