"""Reference outputs of the head, its box code, its losses and its schedule."""

import functools
from collections.abc import Iterable, Mapping

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.cmt import coder
from jaxpapers.cmt.encoding import cell_centers, linear_periods, sine_code
from jaxpapers.cmt.head import Head
from jaxpapers.cmt.official_head import head_keys, leaf_from_official, leaf_to_official
from tests.golden import Check, group, load

STATES, CENTERS, LOGITS, EMBEDDINGS = 2e-3, 2e-2, 5e-3, 1e-4


def build(meta) -> Head:
  return Head(
    num_queries=meta['num_query'],
    width=meta['hidden'],
    layers=meta['layers'],
    heads=meta['heads'],
    hidden=meta['ffn'],
    tasks=tuple(len(task) for task in meta['tasks']),
    head_width=meta['head_conv'],
    head_kernel=meta['head_kernel'],
    depths=meta['depth_num'],
    pc_range=tuple(meta['pc_range']),
    dropout=0.0,
    block=100,
  )


def inputs(data, meta):
  """bev, image features, lidar2img, img2lidar, image size."""
  bev = features = matrices = inverse = None
  if 'pts_feat_nchw' in data:
    bev = data['pts_feat_nchw'].transpose(0, 2, 3, 1)
  if 'img_feat_nchw' in data:
    features = data['img_feat_nchw'].transpose(0, 2, 3, 1)
    features = features.reshape(meta['B'], meta['V'], *features.shape[1:])
    matrices = data['lidar2img'].astype(np.float32)
    inverse = np.linalg.inv(data['lidar2img']).astype(np.float32)
  return bev, features, matrices, inverse, tuple(meta['pad_shape'])


def variables_of(model, arguments, params):
  """Published arrays as the model's variables."""
  *arrays, size = arguments
  shapes = jax.eval_shape(lambda key: model.init(key, *arrays, size), jax.random.key(0))
  flat = {}
  for path, leaf in flax.traverse_util.flatten_dict(shapes).items():
    flat[path] = leaf_from_official(path, [params[key] for key in head_keys(path, model.layers)], model.layers)
    assert flat[path].shape == leaf.shape, path
  assert sum(len(head_keys(path, model.layers)) for path in flat) == len(params)
  return flax.traverse_util.unflatten_dict(flat)


def official(tree, layers) -> dict[str, np.ndarray]:
  """Leaves, such as gradients, under the published names and in the published layout."""
  found = {}
  for path, leaf in flax.traverse_util.flatten_dict(tree).items():
    found.update(zip(head_keys(path, layers), leaf_to_official(path, np.asarray(leaf)), strict=True))
  return found


def nchw(x):
  return np.asarray(x).transpose(0, 3, 1, 2)


def task_checks(tasks, want, prefix='') -> Iterable[Check]:
  for index, task in enumerate(tasks):
    for name, got in task.items():
      tolerance = {'center': CENTERS, 'height': CENTERS}.get(name, LOGITS)
      key = f'task{index}/{prefix}{name}'
      yield Check(key, got, want[key], tolerance)


def detections_checks(found: coder.Detections, want) -> Iterable[Check]:
  for index in range(found.boxes.shape[0]):
    kept = np.asarray(found.valid[index])
    boxes, scores, labels = (np.asarray(x[index])[kept] for x in found[:3])
    prefix = f'decoded/{index}' if f'decoded/{index}/bboxes' in want else f'{index}'
    reference = {name: want[f'{prefix}/{name}'] for name in ('bboxes', 'scores', 'labels')}
    yield Check(f'{prefix}/scores', scores, reference['scores'], 1e-4)
    # Where scores differ by less than 1e-5 the order may be the other: rows are compared in an order of their own.
    gravity = boxes + np.eye(9)[2] * boxes[:, 5:6] / 2
    row, ref = _order(labels, gravity), _order(reference['labels'], reference['bboxes'])
    yield Check(f'{prefix}/labels', labels[row], reference['labels'][ref], 0)
    # Random outputs make boxes of up to 1e5 m: a row counts relative to its size.
    scale = np.maximum(1.0, reference['bboxes'][ref][:, 3:6].max(axis=1, keepdims=True))
    yield Check(f'{prefix}/bboxes', gravity[row] / scale, reference['bboxes'][ref] / scale, CENTERS)
    if f'final/{index}/boxes_bottom_center' in want:
      final = want[f'final/{index}/boxes_bottom_center'][ref]
      yield Check(f'final/{index}', boxes[row] / scale, final / scale, CENTERS)


def _order(labels, boxes):
  return np.lexsort((np.round(boxes[:, 1], 2), np.round(boxes[:, 0], 1), labels))


def run_head(data: Mapping[str, np.ndarray], meta) -> Iterable[Check]:
  want, model = group(data, 'output'), build(meta)
  arguments = inputs(group(data, 'input'), meta)
  variables = variables_of(model, arguments, group(data, 'param'))
  bev, features, matrices, inverse, size = arguments

  @jax.jit
  def forward(variables):
    def call(method, *args):
      return model.apply(variables, *args, method=method)

    points = jnp.broadcast_to(variables['params']['reference_points'], (meta['B'], meta['num_query'], 3))
    points = jnp.clip(points, 1e-5, 1 - 1e-5)
    parts = {'bev_query_embed': call('bev_code', points)}
    if bev is not None:
      parts['shared_conv_nchw'], parts['bev_pos_embed'] = call('bev_tokens', bev)
    if features is not None:
      parts['rv_pos_embed'] = call('image_positions', features.shape[2:4], inverse, size)
      parts['rv_query_embed'] = call('query_image_positions', points, matrices, inverse, size)
    output = model.apply(variables, bev, features, matrices, inverse, size)
    return parts, output, coder.decode(output.tasks, max_num=meta['max_num'])

  parts, output, found = forward(variables)
  if bev is not None:
    grid = want['shared_conv_nchw'].shape[2:]
    got = np.asarray(parts.pop('shared_conv_nchw')).reshape(meta['B'], *grid, -1)
    yield Check('shared_conv_nchw', nchw(got), want['shared_conv_nchw'], STATES)
    centers = cell_centers(*grid)
    yield Check('coords_bev', centers, want['coords_bev'], 1e-6)
    yield Check('pos2embed_bev', sine_code(centers, linear_periods(model.width)), want['pos2embed_bev'], EMBEDDINGS)
  for name, got in parts.items():
    yield Check(name, np.asarray(got).reshape(want[name].shape), want[name], EMBEDDINGS)
  yield Check('decoder', output.states, want['decoder'], STATES)
  yield from task_checks(output.tasks, want)
  yield from detections_checks(found, want)


def run_coder(data, meta) -> Iterable[Check]:
  given, want = group(data, 'input'), group(data, 'output')
  tasks = [group(given, f'task{index}') for index in range(len(meta['tasks']))]
  tasks = [{name: jnp.asarray(value) for name, value in task.items()} for task in tasks]
  keep = {'max_num': meta['max_num'], 'post_center_range': meta['post_center_range']}
  yield from detections_checks(coder.decode(tasks, **keep), want)
  gravity = given['boxes_gravity']
  bottom = gravity - np.eye(9, dtype=np.float32)[2] * gravity[:, 5:6] / 2
  code = coder.encode_boxes(jnp.asarray(bottom))
  yield Check('normalized', code, want['normalized'], 1e-5)
  back = np.asarray(coder.decode_boxes(code))
  yield Check('denormalized', back + np.eye(9)[2] * back[:, 5:6] / 2, want['denormalized'], 1e-4)


def _handler(function):
  @functools.wraps(function)
  def handle(path) -> Iterable[Check]:
    return function(*load(path))

  return handle


HANDLERS = {'head_': _handler(run_head), 'coder_': _handler(run_coder)}
