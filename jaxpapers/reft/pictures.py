"""What an embedded run sees: support and predictions, similarity to class centres, weights, attention."""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxpapers.ops import resize
from jaxpapers.reft import inference, lanes, shapes_batches
from jaxpapers.reft.fewshapes import NAMES, NOVEL
from jaxpapers.reft.model import Switches
from jaxpapers.reft.references import cosine, dynamic_weights

COLOURS = plt.get_cmap('tab20')(np.linspace(0, 1, len(NAMES)))
LABELS = [name.replace('_', ' ') for name in NAMES]


def draw(page: Any, context: Any) -> None:
  """All of them, from the first K-shot set; see `report.Context`."""
  page.heading('What it sees')
  viewer = _Viewer(context)
  _predictions(page, viewer)
  _similarity(page, viewer)
  _dynamic(page, viewer)
  _queries(page, viewer)
  _attention(page, viewer)
  _tokens(page, viewer)


class _Viewer:
  """The models to show, the test images to show them on, and programs that are compiled once for all of them."""

  def __init__(self, context: Any, count: int = 6):
    self.test, self.set = context.test, context.sets[0]
    self.chosen = _chosen(context)
    self.picked = _interesting(self.test, count)
    self.images = self.test.images[self.picked]
    self.most = max(lane.shots for lane, _, _ in self.chosen.values())
    model, side = context.model, self.images.shape[1:3]

    @jax.jit
    def support(params, pool, shots):
      return lanes.lane_support(model, params, pool, shots)

    @jax.jit
    def look(params, images, support, switches):
      found, kept = model.apply({'params': params}, images, support, switches=switches, mutable=['intermediates'])
      told = inference.query_masks(found.logits[-1], found.masks[-1], side)
      return told, kept['intermediates']['query_reference']['attention'][0]

    pool = tuple(jnp.asarray(x) for x in self.set)
    normalised = shapes_batches.normalise(jnp.asarray(self.images))
    self.support, self.told, self.attention = {}, {}, {}
    for title, (lane, variant, params) in self.chosen.items():
      self.support[title] = support(params, pool, lane.shots)
      switches = Switches(variant.first, variant.second, variant.rows)
      self.told[title], self.attention[title] = jax.device_get(look(params, normalised, self.support[title], switches))
    # On the host, as the others: arrays of another kind would be compiled for again.
    params = jax.device_get(context.params)
    self.base_support = support(params, pool, self.most)
    encode = jax.jit(lambda params, x: model.base.apply({'params': params['base']}, x, method='encode'))
    known = np.linspace(0, len(NAMES) - 1, len(self.picked)).astype(int)
    self.known, self.levels = known, encode(params, normalised).levels
    self.known_levels = encode(params, shapes_batches.normalise(jnp.asarray(self.set.images[known]))).levels


def _chosen(context: Any) -> dict[str, tuple[Any, Any, Any]]:
  """Title -> (lane, variant, parameters) of the models to show, at the largest K of the first set."""
  chosen = {}
  for stage, title in (('few_shot', 'fine-tuned'), ('untrained', 'untrained')):
    if stage not in context.tables:
      continue
    table = context.tables[stage]
    most = max(lane.shots for lane in table.lanes)
    for index, lane in enumerate(table.lanes):
      if lane.shots == most and lane.seed == 0 and lane.name in ('baseline', 'both', 'support', 'support_both'):
        params = jax.tree.map(lambda x, i=index: np.asarray(x[i]), context.states[stage].params)
        chosen[f'{title}: {lane.name.replace("_", " + ")}'] = (lane, table.variants[lane.name], params)
  if not chosen:
    name, table = next(iter(context.tables.items()))
    params = jax.tree.map(lambda x: np.asarray(x[0]), context.states[name].params)
    lane = table.lanes[0]
    chosen[lane.name.replace('_', ' ')] = (lane, table.variants[lane.name], params)
  return chosen


def _outline(axis: Any, mask: np.ndarray, colour: Any) -> None:
  if mask.any() and not mask.all():
    axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1.2)


def _bare(axis: Any, title: str = '', size: int = 7) -> None:
  axis.set_xticks([])
  axis.set_yticks([])
  if title:
    axis.set_title(title, fontsize=size)


def _show(axis: Any, image: np.ndarray, title: str = '') -> None:
  axis.imshow(np.clip(image, 0, 1))
  _bare(axis, title)


def _interesting(test: Any, count: int) -> np.ndarray:
  """Images with a novel object, of different classes as far as possible."""
  novel = np.isin(test.classes, NOVEL).any(axis=1)
  order = np.flatnonzero(novel)
  if not len(order):
    return np.arange(min(count, len(test.images)))
  label = np.where(np.isin(test.classes[order], NOVEL), test.classes[order], -1).max(axis=1)
  turn = np.zeros(len(order), int)
  for value in np.unique(label):
    turn[label == value] = np.arange(np.count_nonzero(label == value))
  return order[np.lexsort((label, turn))][:count]


def _predictions(page: Any, viewer: _Viewer) -> None:
  """Support objects with outlines on the left, then truth and predictions of each model."""
  test, support, picked, told = viewer.test, viewer.set, viewer.picked, viewer.told
  columns = min(viewer.most, 3)
  width = columns + 1 + len(told)
  figure, axes = plt.subplots(
    len(picked), width, figsize=(1.25 * width, 1.4 * len(picked)), squeeze=False, layout='constrained'
  )
  for row, index in enumerate(picked):
    known = test.classes[index]
    novel = [c for c in known if c in NOVEL]
    shown = novel[0] if novel else known[0]
    for k in range(columns):
      at = k * len(NAMES) + shown
      _show(axes[row, k], support.images[at], f'support: {LABELS[shown]}' if k == 0 else '')
      _outline(axes[row, k], support.masks[at, 0], COLOURS[shown])
    _show(axes[row, columns], test.images[index], 'truth: ' + ', '.join(LABELS[c] for c in known if c >= 0))
    for mask, label in zip(test.masks[index], known, strict=True):
      if label >= 0:
        _outline(axes[row, columns], mask, COLOURS[label])
    for column, (title, found) in enumerate(told.items()):
      axis = axes[row, columns + 1 + column]
      _show(axis, test.images[index])
      words = _outlined(axis, found.scores[row], found.masks[row])
      _bare(axis, (title.replace(': ', ':\n') + '\n' if row == 0 else '') + words, 6)
  page.figure('predictions', figure, 'Support examples, truth, and what each model finds (score above .2).')
  plt.close(figure)


def _outlined(axis: Any, scores: np.ndarray, masks: np.ndarray, threshold: float = 0.2) -> str:
  """Draws the confident predictions of distinct masks; returns their classes and scores."""
  words, drawn = [], []
  for query, label in zip(*np.unravel_index(np.argsort(-scores, axis=None), scores.shape), strict=True):
    score = scores[query, label]
    if score < threshold or len(drawn) == 3:
      break
    if any((masks[query] & other).sum() > 0.5 * masks[query].sum() for other in drawn):
      continue
    drawn.append(masks[query])
    _outline(axis, masks[query], COLOURS[label])
    words.append(f'{LABELS[label]} {score:.2f}')
  return ', '.join(words) or 'nothing'


def _similarity(page: Any, viewer: _Viewer) -> None:
  """Cosine of every cell of one image to the class centres, levels one below the other."""
  levels = [level[0] for level in viewer.levels]
  figure, axes = plt.subplots(
    len(levels), len(NAMES) + 1, figsize=(1.05 * (len(NAMES) + 1), 1.25 * len(levels)), layout='constrained'
  )
  for row, (level, centers) in enumerate(zip(levels, viewer.base_support.centers, strict=True)):
    _show(axes[row, 0], viewer.images[0])
    axes[row, 0].set_ylabel(f'{level.shape[0]} x {level.shape[1]}', fontsize=8)
    alike = np.asarray(cosine(level[..., None, :], centers))
    for c, name in enumerate(LABELS):
      shown = axes[row, c + 1].imshow(alike[..., c], vmin=-1, vmax=1, cmap='RdBu_r')
      _bare(axes[row, c + 1], name if row == 0 else '')
  figure.colorbar(shown, ax=axes, shrink=0.6)
  true = ', '.join(LABELS[c] for c in viewer.test.classes[viewer.picked[0]] if c >= 0)
  page.figure('similarity', figure, f'Cosine of each cell to each class centre (base model); the image shows {true}.')
  plt.close(figure)


def _dynamic(page: Any, viewer: _Viewer) -> None:
  """Weights of the pixels in a support mask, finest level."""
  (images, masks, _), picked, level = viewer.set, viewer.known, viewer.known_levels[-1]
  count = len(picked)
  outlines = jnp.asarray(masks[picked, 0], jnp.float32)[..., None]
  small = resize.adaptive_mean(outlines, level.shape[1:3])[..., 0]
  weights = {'mask alone': dynamic_weights(level, small, mode='mean'), 'dynamic': dynamic_weights(level, small)}
  figure, axes = plt.subplots(3, count, figsize=(1.5 * count, 4.4), layout='constrained')
  for column, at in enumerate(picked):
    _show(axes[0, column], images[at], LABELS[at])
    _outline(axes[0, column], masks[at, 0], 'white')
    for row, (title, values) in enumerate(weights.items()):
      axes[row + 1, column].imshow(values[column], cmap='viridis')
      _bare(axes[row + 1, column])
      if column == 0:
        axes[row + 1, 0].set_ylabel(title, fontsize=8)
  page.figure('dynamic_weights', figure, 'How much each cell of a support object counts for its centre.')
  plt.close(figure)


def _queries(page: Any, viewer: _Viewer) -> None:
  """The mask of every object query on two images."""
  title, told = list(viewer.told.items())[-1]
  picked = viewer.picked[:2]
  queries = told.masks.shape[1]
  figure, axes = plt.subplots(
    len(picked), queries + 1, figsize=(1.25 * (queries + 1), 1.5 * len(picked)), squeeze=False, layout='constrained'
  )
  for row, index in enumerate(picked):
    _show(axes[row, 0], viewer.test.images[index], 'image')
    for q in range(queries):
      best = int(told.scores[row, q].argmax())
      _show(axes[row, q + 1], viewer.test.images[index], f'{LABELS[best]}\n{told.scores[row, q, best]:.2f}')
      axes[row, q + 1].imshow(
        np.ma.masked_where(~told.masks[row, q], np.ones_like(told.masks[row, q], float)),
        cmap='autumn',
        vmin=0.0,
        vmax=1.0,
        alpha=0.6,
      )
  page.figure('queries', figure, f'Mask, best class and score of every object query ({title}).')
  plt.close(figure)


def _attention(page: Any, viewer: _Viewer) -> None:
  """Attention of the object queries to the support tokens, summed over the tokens of a class."""
  fitting = [title for title, (lane, _, _) in viewer.chosen.items() if lane.name in ('both', 'support_both')]
  if not fitting:
    return
  title, picked = fitting[0], viewer.picked[:3]
  support, told = viewer.support[title], viewer.told[title]
  attention = viewer.attention[title].mean(axis=1)
  classes = np.repeat(np.asarray(support.tokens.classes), support.tokens.queries.shape[1])
  figure, axes = plt.subplots(
    len(picked), 2, figsize=(7.5, 2.1 * len(picked)), width_ratios=(1, 3.4), squeeze=False, layout='constrained'
  )
  for row, index in enumerate(picked):
    known = ', '.join(LABELS[c] for c in viewer.test.classes[index] if c >= 0)
    _show(axes[row, 0], viewer.test.images[index], known)
    by_class = np.stack([attention[row][:, classes == c].sum(axis=1) for c in range(len(NAMES))], axis=1)
    shown = axes[row, 1].imshow(by_class, aspect='auto', vmin=0, cmap='magma')
    axes[row, 1].set_xticks(range(len(NAMES)), LABELS if row == len(picked) - 1 else [], rotation=45, fontsize=7)
    best = told.scores[row].max(axis=-1)
    axes[row, 1].set_yticks(range(len(best)), [f'query {q} ({s:.2f})' for q, s in enumerate(best)], fontsize=6)
    figure.colorbar(shown, ax=axes[row, 1])
  page.figure('attention', figure, f'Attention of object queries (best score in brackets) to each class ({title}).')
  plt.close(figure)


def _tokens(page: Any, viewer: _Viewer) -> None:
  """The best object query of every support example, in two principal components."""
  support = viewer.base_support
  classes = np.asarray(support.tokens.classes)
  points = np.asarray(support.tokens.queries)[classes >= 0, 0]
  classes = classes[classes >= 0]
  centred = points - points.mean(axis=0)
  _, singular, axes_of = np.linalg.svd(centred, full_matrices=False)
  flat = centred @ axes_of[:2].T
  figure, axis = plt.subplots(figsize=(5.6, 3.8), layout='constrained')
  for c, name in enumerate(LABELS):
    mine = classes == c
    axis.scatter(
      *flat[mine].T, color=COLOURS[c], marker='*' if c in NOVEL else 'o', s=60 if c in NOVEL else 25, label=name
    )
  axis.legend(fontsize=7, loc='center left', bbox_to_anchor=(1, 0.5))
  share = np.square(singular) / np.maximum(np.square(singular).sum(), 1e-12)
  axis.set(xlabel=f'{share[0]:.0%} of the variance', ylabel=f'{share[1]:.0%}')
  page.figure(
    'support_queries', figure, 'Object queries of the support examples (base model); stars are novel classes.'
  )
  plt.close(figure)
