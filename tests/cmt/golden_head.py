"""Reference outputs of the head, its box code, its losses and its schedule."""

import functools
from collections.abc import Iterable, Mapping

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.cmt import coder, losses, optimizer
from jaxpapers.cmt.denoising import Denoising, noised_queries, num_slots
from jaxpapers.cmt.encoding import cell_centers, linear_periods, sine_code
from jaxpapers.cmt.head import Head
from jaxpapers.cmt.official_head import head_keys, leaf_from_official, leaf_to_official
from tests.golden import Check, group, load

STATES, CENTERS, LOGITS, EMBEDDINGS = 2e-3, 2e-2, 5e-3, 1e-4
LOSS, GRADIENT = {'tolerance': 1e-4, 'relative': True}, {'tolerance': 1e-3, 'relative': True}


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
  kept = ('bev_code', 'bev_tokens', 'image_positions', 'query_image_positions')

  @jax.jit
  def forward(variables):
    output, state = model.apply(
      variables, bev, features, matrices, inverse, size, capture_intermediates=lambda _, method: method in kept
    )
    return output, state['intermediates'], coder.decode(output.tasks, max_num=meta['max_num'])

  output, seen, found = forward(variables)
  parts = {'bev_query_embed': seen['bev_code'][-1]}
  if bev is not None:
    ((parts['shared_conv_nchw'], parts['bev_pos_embed']),) = seen['bev_tokens']
  if features is not None:
    (parts['rv_pos_embed'],), (parts['rv_query_embed'],) = seen['image_positions'], seen['query_image_positions']
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
  gravity = given['boxes_gravity']
  bottom = gravity - np.eye(9, dtype=np.float32)[2] * gravity[:, 5:6] / 2

  @jax.jit
  def run(tasks, boxes):
    found = coder.decode(tasks, max_num=meta['max_num'], post_center_range=meta['post_center_range'])
    code = coder.encode_boxes(boxes)
    return found, code, coder.decode_boxes(code)

  found, code, back = run(tasks, bottom)
  yield from detections_checks(found, want)
  yield Check('normalized', code, want['normalized'], 1e-5)
  back = np.asarray(back)
  yield Check('denormalized', back + np.eye(9)[2] * back[:, 5:6] / 2, want['denormalized'], 1e-4)


def ground_truth(given, meta, padding: int):
  """boxes, labels and mask, with `padding` more boxes than the fullest sample needs, between the true ones."""
  counts = meta['ngt']
  most = max(counts) + padding
  boxes, labels = np.ones((len(counts), most, 9), np.float32), np.zeros((len(counts), most), np.int32)
  mask = np.zeros((len(counts), most), bool)
  for index, count in enumerate(counts):
    place = np.sort(np.random.default_rng(index).permutation(most)[:count])
    boxes[index, place] = given[f'gt_boxes_bottom_center/{index}']
    labels[index, place] = given[f'gt_labels/{index}']
    mask[index, place] = True
  return boxes, labels, mask


def placed_noise(uniform, want, slots):
  """Published draws, one for every noised box in turn, at our slots; [batch, slots, 3] in [-1, 1]."""
  batch, slot = want['dn/batch_index'], want['dn/query_slot'] + slots - want['dn/pad_size']
  noise = np.zeros((want['dn/reference_points'].shape[0], slots, 3), np.float32)
  noise[batch, slot] = 2.0 * uniform - 1.0
  return noise


def denoising_checks(noised: Denoising, want) -> Iterable[Check]:
  pad, slots = int(want['dn/pad_size']), noised.used.shape[0]
  batch, slot = want['dn/batch_index'], want['dn/query_slot'] + slots - pad
  yield Check('dn/pad_size', noised.used.sum(), pad, 0)
  yield Check('dn/groups', noised.group.max() + 1, want['dn/groups'], 0)
  references = noised.references[:, slots - pad :]
  yield Check('dn/reference_points', references, want['dn/reference_points'][:, :pad], 1e-6)
  blocked = noised.blocked[slots - pad :, slots - pad :]
  yield Check('dn/attn_mask_blocked', blocked, want['dn/attn_mask_blocked'], 0)
  valid = np.zeros(noised.valid.shape, bool)
  valid[batch, slot] = True
  yield Check('dn/query_slot', noised.valid, valid, 0)
  yield Check('dn/labels_noised', noised.labels[batch, slot], want['dn/labels_noised'], 0)
  yield Check('dn/labels_raw', noised.raw_labels[batch, slot], want['dn/labels_raw'], 0)
  boxes = np.asarray(noised.boxes)[batch, slot]
  boxes[:, 2] += boxes[:, 5] / 2
  yield Check('dn/boxes', boxes, want['dn/boxes'], 1e-5)


def assigned_checks(queries, labels, mask, want, meta) -> Iterable[Check]:
  """The published number of a box is its place when a task's boxes are sorted by class."""
  reference = want['assigned_gt_plus1']
  got = np.zeros_like(reference)
  offset = 0
  for task, names in enumerate(meta['tasks']):
    for sample in range(labels.shape[0]):
      of_task = mask[sample] & (labels[sample] >= offset) & (labels[sample] < offset + len(names))
      order = np.flatnonzero(of_task)[np.argsort(labels[sample][of_task], kind='stable')]
      for layer in range(reference.shape[0]):
        got[layer, sample, task, np.asarray(queries[task, layer, sample])[order]] = np.arange(len(order)) + 1
    offset += len(names)
  yield Check('assigned_gt_plus1', got, reference, 0)


def before_the_step(params, want, bev) -> dict[str, np.ndarray]:
  """Parameters with the running statistics that the step began with.

  The published module updates them in place, and some files hold them as `param` from after the step. From those the
  rule (0.9 old + 0.1 batch, unbiased variance) is undone in NumPy, so that the model's own update can be compared.
  """
  names = {name: f'shared_conv.bn.running_{name}' for name in ('mean', 'var')}
  if any(not np.array_equal(params[key], want[f'shared_conv_running_{name}_after']) for name, key in names.items()):
    return params
  height, width = bev.shape[1:3]
  padded = np.pad(bev.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
  kernel = params['shared_conv.conv.weight'].astype(np.float64)
  taps = ((i, j) for i in range(3) for j in range(3))
  y = sum(padded[:, i : i + height, j : j + width] @ kernel[:, :, i, j].T for i, j in taps).reshape(-1, len(kernel))
  batch = {'mean': y.mean(axis=0), 'var': y.var(axis=0, ddof=1)}
  undone = {key: ((params[key] - 0.1 * batch[name]) / 0.9).astype(np.float32) for name, key in names.items()}
  return {**params, **undone}


def run_loss(data, meta) -> Iterable[Check]:
  given, want = group(data, 'input'), group(data, 'output')
  model, arguments = build(meta), inputs(group(data, 'input'), meta)
  params = before_the_step(group(data, 'param'), want, arguments[0])
  variables = variables_of(model, arguments, params)
  boxes, labels, mask = ground_truth(given, meta, padding=1)
  slots = num_slots(meta['num_query'], boxes.shape[1], meta['dn_scalar'])
  make = functools.partial(
    noised_queries,
    num_queries=meta['num_query'],
    num_classes=sum(len(task) for task in meta['tasks']),
    pc_range=meta['pc_range'],
    groups=meta['dn_scalar'],
    scale=meta['dn_noise_scale'],
    split=meta['dn_split'],
  )
  noised = jax.device_get(jax.jit(make)(placed_noise(given['dn_uniform01'], want, slots), boxes, labels, mask))
  yield from denoising_checks(noised, want)
  weights = losses.Weights(meta['loss_cls_weight'], meta['loss_bbox_weight'])
  settings = {'weights': weights, 'code_weights': meta['code_weights']}
  bev, features, matrices, inverse, size = arguments

  def objective(params, bev, features):
    inside = {'params': params, 'batch_stats': variables['batch_stats']}
    output, updates = model.apply(
      inside, bev, features, matrices, inverse, size, denoising=noised, train=True, mutable=['batch_stats']
    )
    queries = losses.assignments(output, boxes, labels, mask, **settings)
    split = meta['dn_split']
    terms = losses.loss_terms(output, noised, boxes, labels, mask, split=split, queries=queries, **settings)
    return sum(map(jnp.sum, terms)), (output, updates['batch_stats'], terms, queries)

  wanted = {name.removeprefix('grad/') for name in want if name.startswith('grad/')}
  if wanted:
    run = jax.value_and_grad(objective, argnums=(0, 1) if features is None else (0, 1, 2), has_aux=True)
    (total, found), gradients = jax.jit(run)(variables['params'], bev, features)
  else:
    total, found = jax.jit(objective)(variables['params'], bev, features)
  output, statistics, terms, queries = found
  yield from task_checks(output.tasks, want)
  made = slice(slots - int(want['dn/pad_size']), None)
  yield from task_checks([{name: x[:, :, made] for name, x in task.items()} for task in output.noised], want, 'dn_')
  yield from assigned_checks(queries, labels, mask, want, meta)
  for layer in range(model.layers):
    prefix = '' if layer == model.layers - 1 else f'd{layer}.'
    for name, ours in (('loss_cls', 'label'), ('loss_bbox', 'box'), ('dn_loss_cls', 'dn_label')):
      yield Check(f'{prefix}{name}', getattr(terms, ours)[layer], want[f'loss/{prefix}{name}'], **LOSS)
    yield Check(f'{prefix}dn_loss_bbox', terms.dn_box[layer], want[f'loss/{prefix}dn_loss_bbox'], **LOSS)
  yield Check('loss_total', total, want['loss_total'], **LOSS)
  after = official({'batch_stats': statistics}, model.layers)
  for name in ('running_mean', 'running_var'):
    got = after[f'shared_conv.bn.{name}']
    yield Check(f'{name}_after', got, want[f'shared_conv_{name}_after'], 1e-5, relative=True)
  if wanted:
    ours = official({'params': gradients[0]}, model.layers)
    assert set(ours) == wanted
    for name in sorted(wanted - ROUNDING):
      yield Check(f'grad/{name}', ours[name], want[f'grad/{name}'], **GRADIENT)
    for name in ROUNDING:
      # Rows of queries and keys are zero but for rounding; those of values are not.
      third = len(want[f'grad/{name}']) * 2 // 3
      yield Check(f'grad/{name}[values]', ours[name][third:], want[f'grad/{name}'][third:], **GRADIENT)
    yield Check('grad_input/pts', nchw(gradients[1]), want['grad_input/pts_feat_nchw'], **GRADIENT)
    if features is not None:
      flat = gradients[2].reshape(-1, *gradients[2].shape[2:])
      yield Check('grad_input/img', nchw(flat), want['grad_input/img_feat_nchw'], **GRADIENT)


ROUNDING = {f'transformer.decoder.layers.0.attentions.0.attn.in_proj_{leaf}' for leaf in ('weight', 'bias')}


def run_schedule(data, meta) -> Iterable[Check]:
  steps, base = meta['max_iters'], meta['base_lr']
  (peak, end), (low, back) = meta['target_ratio'], meta['momentum_target_ratio']
  with jax.enable_x64(True):
    iteration = jnp.arange(steps, dtype=jnp.float64)
    rate = optimizer.two_cosines(base, base * peak, base * end, steps, meta['step_ratio_up'])(iteration)
    beta1 = optimizer.two_cosines(0.9, 0.9 * low, 0.9 * back, steps, meta['step_ratio_up'])(iteration)
    if (peak, end, low, back) == (8, 1e-4, 0.8947368421052632, 1):
      assert np.array_equal(rate, optimizer.published_rate(base, 8, steps)(iteration))
      np.testing.assert_allclose(beta1, optimizer.published_beta1(steps)(iteration), rtol=1e-12)
  rates = np.asarray(rate)[:, None] * np.asarray(meta['groups_lr_mult'])
  yield Check('lr', rates, data['f64/lr'], 1e-9)
  yield Check('beta1', np.asarray(beta1), data['f64/beta1'], 1e-9)


def _handler(function):
  @functools.wraps(function)
  def handle(path) -> Iterable[Check]:
    return function(*load(path))

  return handle


HANDLERS = {
  'head_': _handler(run_head),
  'coder_': _handler(run_coder),
  'loss_': _handler(run_loss),
  'schedule': _handler(run_schedule),
}
