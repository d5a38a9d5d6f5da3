"""CMT's sparse encoder beside the same network in spconv, for `launch/benchmark.py --peer=spconv`."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxpapers.cmt.lidar import sparse_shape
from jaxpapers.cmt.sparse_encoder import WINDOWS, SparseEncoder
from jaxpapers.cmt.voxelize import voxelize
from jaxpapers.engine.errors import UserError
from jaxpapers.engine.measure import Measurement, median_seconds

PC_RANGE = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
VOXEL = (0.1, 0.1, 0.2)
AGREEMENT = 1e-4  # of the largest value


def scattered_cloud(points: int, seed: int = 0) -> np.ndarray:
  """A cloud denser near the sensor but without surfaces, hard on sparse convolution: [points, 5] float32."""
  rng = np.random.default_rng(seed)
  distance, angle = np.abs(rng.normal(0, 22, points)), rng.uniform(-np.pi, np.pi, points)
  height = rng.normal(-1, 1, points).clip(-4.9, 2.9)
  columns = [distance * np.cos(angle), distance * np.sin(angle), height, rng.random(points), 0.5 * rng.random(points)]
  return np.stack(columns, 1).astype(np.float32)


def spconv_encoder(
  config: ml_collections.ConfigDict | None, *, repeats: int, threads: int, points: int = 124_000
) -> list[Measurement]:
  """One forward pass of the published encoder at voxels of 0.1 m on CPU, in both libraries, with equal weights.

  Args:
    config: not used.
    repeats: timed calls.
    threads: not used: with more than one, spconv adds up its results on CPU in a race and they are wrong. Start with
      --threads=1 to give ours one, too.
    points: of the cloud; the default gives about 119,000 voxels.

  Raises:
    UserError: if PyTorch or spconv is not installed, or the two results differ.
  """
  del config, threads
  try:
    import spconv.pytorch as spconv
    import torch
  except ImportError as error:
    raise UserError('--peer=spconv needs PyTorch and spconv: pip install -e ".[bench]".') from error
  torch.set_num_threads(1)
  cloud = scattered_cloud(points)
  voxels = jax.jit(lambda p: voxelize(p, jnp.ones(len(p), bool), PC_RANGE, VOXEL, points))(cloud)
  used = int((voxels.counts > 0).sum())
  features, coords = np.asarray(voxels.features[:used]), np.asarray(voxels.coords[:used])
  encoder = SparseEncoder(sparse_shape(PC_RANGE, VOXEL))
  variables = _random(encoder, features, coords)
  forward = jax.jit(encoder.apply)
  ours, lost = forward(variables, features[None], coords[None])
  if any(int(n.sum()) for n in lost.values()):
    raise UserError(f'The cloud of {points} points has more active sites than the encoder has rows.')
  network = _spconv_network(spconv, torch, encoder, variables)
  indices = torch.from_numpy(np.pad(coords, ((0, 0), (1, 0))))
  inputs = torch.tensor(features)

  def peer() -> np.ndarray:
    with torch.no_grad():
      dense = network(spconv.SparseConvTensor(inputs, indices, list(encoder.shape), 1)).dense()
    return dense.flatten(1, 2).numpy()

  expected = np.moveaxis(peer(), 1, -1)
  difference = np.abs(expected - np.asarray(ours)).max() / np.abs(expected).max()
  if not difference < AGREEMENT:
    raise UserError(f'The sparse encoders differ by {difference:.1g} of the largest value.')
  theirs = Measurement('spconv sparse encoder, 1 thread', 1, median_seconds(peer, repeats), beside='sparse encoder')
  return [
    theirs,
    Measurement(
      'sparse encoder', 1, median_seconds(lambda: forward(variables, features[None], coords[None])[0], repeats)
    ),
  ]


PEERS = {'spconv': spconv_encoder}


def _random(encoder, features, coords):
  """Variables that keep the scale of the activations."""
  rng = np.random.default_rng(1)

  def draw(path, shape):
    if path[-1].key == 'kernel':
      return (1.6 / np.sqrt(np.prod(shape.shape[:-1])) * rng.normal(size=shape.shape)).astype(np.float32)
    return (rng.normal(0, 0.1, shape.shape) + (path[-1].key in ('scale', 'var'))).clip(-0.5).astype(np.float32)

  shapes = jax.eval_shape(encoder.init, jax.random.key(0), features[None], coords[None])
  return jax.tree_util.tree_map_with_path(draw, shapes)


def _spconv_network(spconv, torch, encoder, variables):
  """The same layers with the same weights."""
  params, stats = variables['params'], variables['batch_stats']

  def load(conv, module, conv_name, norm_name):
    kernel, scale = params[module][conv_name]['kernel'], params[module][norm_name]
    conv.weight.data = torch.from_numpy(np.ascontiguousarray(kernel.transpose(4, 0, 1, 2, 3)))
    norm = torch.nn.BatchNorm1d(kernel.shape[-1], eps=1e-3)
    held = {'weight': scale['scale'], 'bias': scale['bias']}
    held |= {f'running_{name}': value for name, value in stats[module][norm_name].items()}
    norm.load_state_dict({name: torch.from_numpy(value) for name, value in held.items()}, strict=False)
    return conv, norm

  class Block(spconv.SparseModule):
    def __init__(self, width, module):
      super().__init__()
      made = (spconv.SubMConv3d(width, width, 3, padding=1, bias=False) for _ in range(2))
      self.conv1, self.bn1 = load(next(made), module, 'conv1', 'bn1')
      self.conv2, self.bn2 = load(next(made), module, 'conv2', 'bn2')

    def forward(self, x):
      y = self.conv1(x)
      y = self.conv2(y.replace_feature(torch.relu(self.bn1(y.features))))
      return y.replace_feature(torch.relu(self.bn2(y.features) + x.features))

  widths = tuple(encoder.widths)
  first = spconv.SubMConv3d(5, widths[0], 3, padding=1, bias=False)
  layers = [*load(first, 'conv_input', 'conv', 'norm'), torch.nn.ReLU()]
  for level, (width, following) in enumerate(zip(widths, (*widths[1:], encoder.out), strict=True)):
    layers += [Block(width, f'layer{level + 1}_{i}') for i in range(2)]
    kernel, stride, padding = WINDOWS[level]
    conv = spconv.SparseConv3d(width, following, kernel, stride, padding, bias=False)
    name = f'down{level + 1}' if level < 3 else 'conv_out'
    layers += [*load(conv, name, 'conv', 'norm'), torch.nn.ReLU()]
  return spconv.SparseSequential(*layers).eval()
