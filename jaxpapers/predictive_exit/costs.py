"""Multiply-adds and bytes of segments and exits, counted from shapes; the cost book of the authors' code; placement.

True counts: a convolution has Ho Wo kh kw Cin Cout multiply-adds, a linear map in * out, nothing else
counts. Bytes are float32: what each reads and writes, weights and maps.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.layers.conv import Conv
from jaxpapers.predictive_exit.exits import Linear, PooledExits
from jaxpapers.predictive_exit.model import MultiExit
from jaxpapers.predictive_exit.tables import Costs

FLOAT_BYTES = 4
PLACEMENT_TH = 0.5


class Layer(NamedTuple):
  """One convolution or linear map, for one image.

  Attributes:
    name: path of the module.
    macs: multiply-adds.
    bytes: read and written.
    xla_flops: what XLA's cost analysis counts of a convolution: taps inside the map only, two per multiply-add.
  """

  name: str
  macs: int
  bytes: int
  xla_flops: int


class Work(NamedTuple):
  """Work of a network with exits.

  Attributes:
    costs: per segment and head, [exits + 1] each; the last head is the classifier.
    segments: the layers of every segment.
    heads: the layers of every head.
  """

  costs: Costs
  segments: tuple[tuple[Layer, ...], ...]
  heads: tuple[tuple[Layer, ...], ...]


def work(model: MultiExit, channels: int = 3) -> Work:
  """Counts every segment and head of `model` for one image, without computing anything.

  Source: this library's own; the authors' book of costs is `official_book`.

  Args:
    model: any width, number of classes and grid.
    channels: of the images.
  """
  image = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, channels), jnp.float32)
  variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)
  carry = jax.eval_shape(lambda x: model.apply(variables_of(variables), x, method='start'), image)
  segments, heads = [], []
  for k in range(model.exits + 1):
    layers, carry = _recorded(model, variables, 'segment', carry, k)
    segments.append(layers)
    heads.append(_recorded(model, variables, 'head', carry, k)[0])

  def totals(parts, field):
    return np.asarray([sum(getattr(layer, field) for layer in part) for part in parts], np.float64)

  costs = Costs(totals(segments, 'macs'), totals(segments, 'bytes'), totals(heads, 'macs'), totals(heads, 'bytes'))
  return Work(costs, tuple(segments), tuple(heads))


def variables_of(shapes: Any) -> Any:
  """Zeros in the place of shapes, inside a trace."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _recorded(model: MultiExit, variables: Any, method: str, carry: Any, k: int) -> tuple[tuple[Layer, ...], Any]:
  """The layers that `method` runs on `carry`, and its output's shapes."""
  layers: list[Layer] = []

  def watch(next_function, args, kwargs, context):
    result = next_function(*args, **kwargs)
    if isinstance(context.module, Conv | Linear) and context.method_name == '__call__':
      layers.append(_layer(context.module, args[0].shape, result.shape))
    elif isinstance(context.module, PooledExits) and context.method_name == 'one':
      module = context.module
      layers.append(_linear('heads', module.inputs, module.classes))
    return result

  def run(carry):
    with nn.intercept_methods(watch):
      return model.apply(variables_of(variables), carry, k, method=method)

  output = jax.eval_shape(run, carry)
  return tuple(layers), output


def _layer(module: Conv | Linear, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Layer:
  name = '/'.join(module.path)
  if isinstance(module, Linear):
    return _linear(name, inputs[-1], module.features)
  _, height, width, channels = inputs
  _, rows, columns, features = outputs
  size, stride = module.kernel_size, module.stride
  padding = size // 2 if module.padding is None else module.padding
  weights = size * size * channels * features
  moved = channels * height * width + features * rows * columns + weights + (features if module.use_bias else 0)
  inside = _taps(height, rows, size, stride, padding) * _taps(width, columns, size, stride, padding)
  return Layer(name, rows * columns * weights, FLOAT_BYTES * moved, 2 * inside * channels * features)


def _linear(name: str, inputs: int, outputs: int) -> Layer:
  macs = inputs * outputs
  return Layer(name, macs, FLOAT_BYTES * (inputs + macs + outputs), 2 * macs)


def _taps(size: int, outputs: int, kernel: int, stride: int, padding: int) -> int:
  """Pairs of output pixel and kernel tap along one axis whose input pixel lies inside the map."""
  places = np.arange(outputs)[:, None] * stride - padding + np.arange(kernel)
  return int(np.sum((places >= 0) & (places < size)))


def parameter_count(variables: Any) -> dict[str, int]:
  """Trainable values by part: backbone, exits, total. Takes variables or their shapes."""
  sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in variables['params'].items()}
  return {'backbone': sizes['backbone'], 'exits': sizes.get('heads', 0), 'total': sum(sizes.values())}


def official_book(name: str) -> tuple[np.ndarray, np.ndarray]:
  """The constants of the authors' code: (cost of every layer [E], cost of every exit layer [E]).

  They leave out the nine taps of a convolution and mix shapes: a pool is charged like a convolution, stages 2-4 of the
  ResNet as if their maps were 32x32. True counts are `work`; this book serves comparison with the authors' numbers.

  Args:
    name: 'vgg19' or 'resnet34'.

  Raises:
    ValueError: for another name.
  """
  books = {'vgg19': _official_vgg19, 'resnet34': _official_resnet34}
  if name not in books:
    raise ValueError(f'The authors have no cost book for {name!r}; known: {", ".join(books)}.')
  layers, exits = zip(*books[name](), strict=True)
  return np.asarray(layers, np.int64), np.asarray(exits, np.int64)


def _official_vgg19() -> Iterator[tuple[int, int]]:
  # (times, channels in, channels out and side of the map that a layer is charged at, side that its exit is charged at).
  # Irregular as published: conv3 with 128 input channels, pool3 and pool4 at the map behind them, pool1 before it.
  rows = (
    *((1, 3, 64, 32, 32), (2, 64, 64, 32, 32), (2, 128, 128, 16, 16), (1, 128, 128, 16, 8)),
    *((1, 128, 256, 8, 8), (3, 256, 256, 8, 8), (1, 256, 256, 4, 4)),
    *((1, 256, 512, 4, 4), (3, 512, 512, 4, 4), (5, 512, 512, 2, 2)),
  )
  for times, inputs, outputs, side, exit_side in rows:
    for _ in range(times):
      yield inputs * outputs * side * side, 64 * outputs * exit_side * exit_side


def _official_resnet34() -> Iterator[tuple[int, int]]:
  pixels = 32 * 32  # in all stages
  for stage, (width, depth) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True)):
    unit, leave = width * width * pixels, 64 * width * pixels
    for block in range(depth):
      first, second = unit, 2 * unit
      if block == 0 and stage == 0:
        first = 3 * width * pixels + unit
      elif block == 0:
        # The projection is added to the second convolution; the first is charged in full in stage 2, by half after it.
        first = unit if stage == 1 else unit // 2
        second = unit + unit // 2
      yield first, leave
      yield second, leave


def place_exits(layer_costs: np.ndarray, exit_costs: np.ndarray, stay: np.ndarray, th: float = PLACEMENT_TH):
  """The authors' placement for the baseline: which exits of a network are worth having.

  Exit p is kept when (th - c_p) y_{p+1} - (1 - c_p) x_p - (1 - th) y_p >= 0.

  Args:
    layer_costs: [E], y.
    exit_costs: [E], x.
    stay: [..., E], c: share of samples that do NOT leave at p when p is the only exit.
    th: threshold.

  Returns:
    [..., E] bool; the last exit is never kept.
  """
  y, x, c = (np.asarray(v, np.float64) for v in (layer_costs, exit_costs, stay))
  keep = (th - c[..., :-1]) * y[1:] - (1 - c[..., :-1]) * x[:-1] - (1 - th) * y[:-1] >= 0
  return np.concatenate([keep, np.zeros_like(keep[..., :1])], axis=-1)
