"""What a classification run shows: does attention inside the mobile block pay, and where does it look?"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers import engine
from jaxpapers.emo.counting import macs, parameter_counts
from jaxpapers.emo.model import EMO, VARIANTS, emo
from jaxpapers.emo.window import partition

LABELS = {'emo': 'EMO', 'no_attention': 'without attention'}
SHOWN = 16  # test images
PUBLISHED_TOP1 = {'emo_1m': 71.5, 'emo_2m': 75.1, 'emo_5m': 78.4, 'emo_6m': 79.0}


def classification(
  page: engine.Report,
  models: Mapping[str, EMO],
  states: Mapping[str, engine.TrainState],
  batch: Mapping[str, np.ndarray],
  size: int,
) -> None:
  """Tables and pictures of the trained models.

  Args:
    page: the report.
    models: by stage name; 'emo', and 'no_attention' where the baseline ran.
    states: final states by stage name.
    batch: test images [batch, size, size, 3] and labels.
    size: of the images in pixels.
  """
  comparison(page, models, states, size)
  page.heading('Training')
  page.figure('curves', curves(page, list(models)), 'Training loss and test accuracy; the moving average is dashed.')
  page.heading('What the model sees')
  variables = {name: best_variables(page, name, state) for name, state in states.items()}
  apply = jax.jit(functools.partial(models['emo'].apply, mutable=['intermediates']))
  logits, sown = apply(variables['emo'], batch['image'][:SHOWN])
  page.figure('predictions', predictions(batch, np.asarray(logits.argmax(-1))), 'Test images; red titles are mistakes.')
  maps = attention_maps(models['emo'], sown['intermediates'], size)
  if maps is not None:
    page.figure(
      'attention',
      draw_attention(batch['image'][0], *maps),
      'Where one pixel (cross) of stage 3 looks, head by head. Strided windows sample the whole map: a comb pattern.',
    )
  fields = {name: receptive_field(models[name], variables[name], batch['image'][:SHOWN]) for name in models}
  page.figure(
    'receptive_field',
    draw_fields(fields),
    'Effective receptive field of the central stage-4 unit: mean size of its gradient with respect to the image '
    '(logarithmic, over 16 test images).',
  )
  page.heading('Published variants')
  rows = [[name, parameters(emo(name)), macs(emo(name), 224, 224).total, PUBLISHED_TOP1[name]] for name in VARIANTS]
  page.table(['variant', 'parameters', 'multiply-adds at 224', 'ImageNet top-1 in the paper, %'], rows)


def parameters(model: EMO) -> int:
  """Trainable values of the model, by shapes alone."""
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  return parameter_counts(jax.eval_shape(model.init, jax.random.key(0), image))['total']


def best_variables(page: engine.Report, name: str, state: engine.TrainState) -> dict[str, Any]:
  """The plain or the averaged variables, whichever the last evaluation found better."""
  final = page.final.get(name, {})
  ema = state.ema is not None and final.get('test/ema_top1', 0.0) > final.get('test/top1', 0.0)
  return state.variables(ema)


def comparison(page: engine.Report, models: Mapping[str, EMO], states: Mapping[str, Any], size: int) -> None:
  """One row a model: size, cost, accuracy; the paper's claim as a sentence with the measured difference."""
  page.heading('Does attention pay?')
  rows, accuracy = [], {}
  for name, model in models.items():
    final = page.final.get(name, {})
    accuracy[name] = max(final.get('test/top1', 0.0), final.get('test/ema_top1', 0.0))
    rows.append(
      [
        LABELS[name],
        parameters(model),
        macs(model, size, size).total,
        final.get('test/top1'),
        final.get('test/ema_top1'),
        final.get('test/top5'),
      ]
    )
  page.table(['model', 'parameters', 'multiply-adds', 'top-1', 'top-1 (average)', 'top-5'], rows)
  if len(models) == 2:
    gain = accuracy['emo'] - accuracy['no_attention']
    verdict = 'holds' if gain > 0 else 'does not hold'
    page.text(
      'The paper claims that attention inside the inverted residual block improves accuracy at little cost. Same data, '
      f'order, steps and recipe: {accuracy["emo"]:.1%} with attention, {accuracy["no_attention"]:.1%} without '
      f'({gain:+.1%}). One seed; in this run the claim {verdict}.'
    )
    page.results(attention_gain=gain)


def curves(page: engine.Report, names: list[str]) -> Any:
  """Loss and accuracy over steps."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(10, 3.6))
  left, right = figure.subplots(1, 2)
  for index, name in enumerate(names):
    color = f'C{index}'
    left.plot(*page.history(name, 'loss'), color=color, label=LABELS[name])
    right.plot(*page.history(name, 'test/top1'), color=color, label=LABELS[name])
    right.plot(*page.history(name, 'test/ema_top1'), color=color, linestyle='--')
  left.set(xlabel='step', ylabel='training loss')
  right.set(xlabel='step', ylabel='test top-1', ylim=(0, 1))
  right.legend()
  return figure


def to_display(images: np.ndarray) -> np.ndarray:
  """Any range of values, stretched to [0, 1] for each image: [..., height, width, 3]."""
  low = images.min((-3, -2, -1), keepdims=True)
  high = images.max((-3, -2, -1), keepdims=True)
  return (images - low) / np.maximum(high - low, 1e-6)


def predictions(batch: Mapping[str, np.ndarray], predicted: np.ndarray, count: int = SHOWN) -> Any:
  """A grid of images titled 'predicted (true)'."""
  from matplotlib.figure import Figure

  count = min(count, int(np.sum(batch['valid'])))
  rows = -(-count // 8)
  figure = Figure(figsize=(12, 1.8 * rows))
  for index, axis in enumerate(np.ravel(figure.subplots(rows, 8, squeeze=False))):
    axis.axis('off')
    if index < count:
      axis.imshow(to_display(np.asarray(batch['image'][index])))
      right = predicted[index] == batch['label'][index]
      title = str(predicted[index]) if right else f'{predicted[index]} (is {batch["label"][index]})'
      axis.set_title(title, fontsize=9, color='black' if right else 'red')
  return figure


def attention_maps(model: EMO, sown: Mapping[str, Any], size: int) -> tuple[np.ndarray, tuple[int, int]] | None:
  """Attention of one query pixel over the map, from the last block of stage 3.

  Args:
    model: EMO with attention in stage 3; None is returned for another.
    sown: its intermediates for images of size x size pixels, of which the first is shown.
    size: of the images.

  Returns:
    [heads, rows, columns] weights that sum to 1 for each head (but for padding), nonzero in the query's window only;
    and the (row, column) of the query, the middle token of window 0.
  """
  block = sown.get(f'stage3_block{model.depths[2] - 1}', {})
  if model.partition != 'grid' or 'attention_grid' not in block:
    return None
  weights = np.asarray(block['attention_grid'][0])[0]  # [windows, heads, tokens, tokens]
  size = -(-size // 16)
  side = model.windows[2] or size
  padded = -(-size // side) * side
  place = np.arange(padded * padded).reshape(1, padded, padded, 1)
  tokens = np.asarray(partition(jnp.asarray(place), (side, side)))[0, 0, :, 0]  # flat positions of window 0
  query = (side // 2) * side + side // 2
  maps = np.zeros((weights.shape[1], padded * padded))
  maps[:, tokens] = weights[0, :, query]
  place = int(tokens[query])
  return maps.reshape(-1, padded, padded)[:, :size, :size], (place // padded, place % padded)


def draw_attention(image: np.ndarray, maps: np.ndarray, query: tuple[int, int]) -> Any:
  """The image with the query pixel, and beside it the weights of each head over it."""
  from matplotlib.figure import Figure

  heads, size = maps.shape[0], maps.shape[1]
  shown = to_display(np.asarray(image))
  scale = shown.shape[0] / size
  figure = Figure(figsize=(2.2 * (heads + 1), 2.4))
  axes = figure.subplots(1, heads + 1)
  for index, axis in enumerate(axes):
    axis.axis('off')
    axis.imshow(shown)
    if index:
      weights = np.kron(maps[index - 1], np.ones((int(scale), int(scale))))
      axis.imshow(weights, alpha=0.6, cmap='magma')
      axis.set_title(f'head {index}', fontsize=9)
    axis.plot((query[1] + 0.5) * scale, (query[0] + 0.5) * scale, 'x', color='cyan', markersize=8)
  axes[0].set_title('query', fontsize=9)
  return figure


def receptive_field(model: EMO, variables: Mapping[str, Any], images: np.ndarray) -> np.ndarray:
  """Mean absolute gradient of the central stage-4 unit with respect to the image: [height, width]."""

  def centre(images):
    final = model.apply(variables, images, method='features')[-1]
    return final[:, final.shape[1] // 2, final.shape[2] // 2].sum()

  return np.asarray(jnp.abs(jax.jit(jax.grad(centre))(jnp.asarray(images))).mean((0, 3)))


def draw_fields(fields: Mapping[str, np.ndarray]) -> Any:
  """The fields side by side on one logarithmic scale."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(3.6 * len(fields) + 1, 3.4))
  axes = figure.subplots(1, len(fields), squeeze=False)[0]
  top = max(field.max() for field in fields.values())
  logs = {name: np.log10(np.maximum(field / top, 1e-4)) for name, field in fields.items()}
  for axis, (name, field) in zip(axes, logs.items(), strict=True):
    axis.axis('off')
    axis.set_title(LABELS[name], fontsize=10)
    shown = axis.imshow(field, vmin=-4, vmax=0, cmap='viridis')
  figure.colorbar(shown, ax=axes, label='log10 of the gradient, relative')
  return figure
