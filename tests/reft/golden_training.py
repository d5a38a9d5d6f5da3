"""Matching, set loss and optimizer steps against the public base code."""

import functools
import re
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.reft import losses, matching, official, optimizer
from jaxpapers.reft.sampling import sample_points
from tests.golden import Check, group
from tests.reft import small_networks


def padded_targets(data: dict, prefix: str, count: int, size: tuple[int, int] | None = None) -> losses.Targets:
  """Objects of `count` images under `prefix`, padded to one number and size."""
  labels = [data[prefix.format('labels', i)] for i in range(count)]
  masks = [data[prefix.format('masks', i)] for i in range(count)]
  most = max(1, *(len(x) for x in labels))
  height, width = size or masks[0].shape[1:]
  out = losses.Targets(
    np.zeros((count, most), np.int32), np.zeros((count, most, height, width), bool), np.zeros((count, most), bool)
  )
  for i, (label, mask) in enumerate(zip(labels, masks, strict=True)):
    out.labels[i, : len(label)] = label
    out.masks[i, : len(label), : mask.shape[1], : mask.shape[2]] = mask
    out.valid[i, : len(label)] = True
  return jax.tree.map(jnp.asarray, out)


def recorded_points(data: dict, prefix: str, layer: str, targets: losses.Targets, order: list) -> losses.Points:
  """Recorded points, whose rows are the pairs by image and query, at the places of the objects."""
  batch, most = targets.valid.shape
  match = np.concatenate([data[f'{prefix}points/match/{layer}/img{i}'] for i in range(batch)])

  def spread(name):
    rows = data[f'{prefix}points/{name}/{layer}']
    out, start = np.full((batch, most, *rows.shape[1:]), 0.5, np.float32), 0
    for image, objects in enumerate(order):
      out[image, objects] = rows[start : start + len(objects)]
      start += len(objects)
    return out

  return losses.Points(*(jnp.asarray(x) for x in (match, spread('loss_oversampled'), spread('loss_random'))))


def matched_order(matches: matching.Matches, image: int) -> np.ndarray:
  """Objects of an image by ascending query."""
  objects = np.flatnonzero(np.asarray(matches.matched[image]))
  return objects[np.argsort(np.asarray(matches.query[image])[objects])]


def matcher(data: dict, meta: dict) -> Iterable[Check]:
  layers = ['final', *sorted({key.split('/')[2] for key in data if re.match(r'input/logits/aux', key)})]
  count = sum(key.startswith('input/target_labels/') for key in data)
  targets = padded_targets(data, 'input/target_{}/img{}', count)
  weights = matching.Weights(meta['class_weight'], meta['mask_weight'], meta['dice_weight'])
  logits = jnp.stack([data[f'input/logits/{layer}'] for layer in layers])
  masks = jnp.stack([data[f'input/masks/{layer}'] for layer in layers])
  all_points = []
  assign = jax.jit(functools.partial(losses.match_layer, weights=weights))
  for index, layer in enumerate(layers):
    at = jnp.concatenate([jnp.asarray(data[f'points/match/{layer}/img{i}']) for i in range(count)])
    matches = assign(logits[index], masks[index], targets, at)
    order = [matched_order(matches, image) for image in range(count)]
    for image in range(count):
      pairs = np.stack([np.asarray(matches.query[image])[order[image]], order[image]])
      yield Check(f'match/{layer}/{image}', pairs, data[f'match/{layer}/img{image}'], 0)
      valid = np.flatnonzero(targets.valid[image])
      yield from _costs(data, layer, image, logits[index], masks[index], targets, at, weights, valid)
    all_points.append(recorded_points(data, '', layer, targets, order))
  points = jax.tree.map(lambda *x: jnp.stack(x), *all_points)

  def objective(logits, masks):
    total, terms, _ = losses.deep_loss(logits, masks, targets, points, weights, no_object=meta['no_object_weight'])
    return total, terms

  (total, terms), grads = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))(logits, masks)
  yield Check('total', total, data['output/total_weighted'], 1e-5, relative=True)
  for index, layer in enumerate(layers):
    tail = '' if layer == 'final' else layer.replace('aux', '_')
    for name, term, weight in zip(('ce', 'mask', 'dice'), terms, weights, strict=True):
      yield Check(f'loss_{name}{tail}', term[index] / weight, data[f'output/loss_{name}{tail}'], 1e-5)
    yield Check(f'grad/logits/{layer}', grads[0][index], data[f'grad/logits/{layer}'], 1e-5)
    yield Check(f'grad/masks/{layer}', grads[1][index], data[f'grad/masks/{layer}'], 1e-5)


def _costs(data, layer, image, logits, masks, targets, at, weights, valid):
  if not len(valid):
    return
  points = at[image]

  def sampled(maps):
    return sample_points(maps, jnp.broadcast_to(points, (len(maps), *points.shape)))

  truth = sampled(targets.masks[image][valid].astype(jnp.float32))
  costs = matching.matching_costs(logits[image], sampled(masks[image]), targets.labels[image][valid], truth, weights)
  for name, got in (('total', costs.total), ('mask_bce', costs.mask), ('dice', costs.dice)):
    yield Check(f'cost/{name}/{layer}/{image}', got, data[f'cost/{name}/{layer}/img{image}'], 4e-5)


def train_steps(data: dict, meta: dict) -> Iterable[Check]:
  # In double precision: in single, a unit at the edge of its ReLU moves one weight by more than the tolerance.
  with jax.enable_x64(True):
    yield from _train_steps({k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in data.items()}, meta)


def _train_steps(data: dict, meta: dict) -> Iterable[Check]:
  cfg, solver = meta['cfg'], meta['solver']
  state = group(data, 'param_init')
  net = small_networks.small_model(cfg, state)
  variables = official.import_official(state, net)
  schedule = optax.piecewise_constant_schedule(solver['base_lr'], {s: solver['gamma'] for s in solver['steps']})
  transform = optimizer.mask2former_optimizer(schedule, clip=solver['clip'])
  params, frozen = variables['params'], {k: v for k, v in variables.items() if k != 'params'}
  opt_state = transform.init(params)
  layers = ['final', *(f'aux{i}' for i in range(cfg['dec']))]
  # Recorded layers are the last one, then the others from the first on.
  order_of = [*range(1, cfg['dec'] + 1), 0]

  assign = jax.jit(losses.match_layer)

  @jax.jit
  def forward(params, images):
    found = net.apply({'params': params, **frozen}, images)
    return found.logits, found.masks

  @jax.jit
  def step(params, opt_state, images, targets, points):
    def objective(params):
      found = net.apply({'params': params, **frozen}, images)
      total, terms, _ = losses.deep_loss(found.logits, found.masks, targets, points)
      return total, terms

    (total, terms), grads = jax.value_and_grad(objective, has_aux=True)(params)
    updates, opt_state = transform.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, total, terms, grads

  for number in range(meta['steps']):
    part = group(data, f'step{number}')
    count = sum(bool(re.fullmatch(r'image\d+', key)) for key in part)
    images = small_networks.padded_images([part[f'image{i}'] for i in range(count)])
    targets = padded_targets(part, '{}{}', count, images.shape[1:3])
    logits, masks = forward(params, images)
    collected = []
    for index in range(cfg['dec'] + 1):
      layer = layers[order_of[index]]
      at = jnp.concatenate([jnp.asarray(part[f'points/match/{layer}/img{i}']) for i in range(count)])
      matches = assign(logits[index], masks[index], targets, at)
      order = [matched_order(matches, image) for image in range(count)]
      collected.append(recorded_points(part, '', layer, targets, order))
    points = jax.tree.map(lambda *x: jnp.stack(x), *collected)
    yield Check(f'step{number}/lr', schedule(number), part['lr'][-1], 1e-9)
    params, opt_state, total, terms, grads = step(params, opt_state, images, targets, points)
    yield Check(f'step{number}/total', total, part['total'], 4e-5)
    for index in range(cfg['dec'] + 1):
      layer = layers[order_of[index]]
      tail = '' if layer == 'final' else layer.replace('aux', '_')
      for name, term in zip(('ce', 'mask', 'dice'), terms, strict=True):
        yield Check(f'step{number}/{name}{tail}', term[index], part[f'loss_weighted/loss_{name}{tail}'], 4e-5)
    yield Check(f'step{number}/grad_norm', optax.global_norm(grads), part['grad_norm_before_clip'], 5e-4)
    named = official.export_variables({'params': grads})
    for key, want in group(part, 'grad').items():
      yield Check(f'step{number}/grad/{key}', named[key], want, 1e-4, relative=True)
  after = official.export_variables({'params': params, **frozen})
  for key, want in group(data, 'param_final').items():
    if key in after:
      yield Check(f'after/{key}', after[key], want, 4e-5)
