"""Golden cases of the detection and segmentation heads; sizes, class counts and widths come from the arrays."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.emo import detection, official_dense, segmentation
from jaxpapers.emo import detection_targets as targets_of
from jaxpapers.ops import segmentation as segmentation_ops
from tests.golden import Check, group

Data = Mapping[str, np.ndarray]


def _nhwc(x: np.ndarray) -> jax.Array:
  return jnp.asarray(x.transpose(0, 2, 3, 1))


def _nchw(x: jax.Array) -> np.ndarray:
  return np.asarray(x).transpose(0, 3, 1, 2)


def _count(data: Data, prefix: str) -> int:
  number = 0
  while f'{prefix}{number}' in data:
    number += 1
  return number


class _NeckAndHead(nn.Module):
  neck: nn.Module
  head: nn.Module

  def __call__(self, maps):
    levels = self.neck(maps)
    return levels, self.head(levels)


def _import(model: nn.Module, state: Data, *inputs) -> dict[str, Any]:
  template = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs))
  return official_dense.import_heads(state, template)


def _detector(data: Data, meta: Mapping[str, Any], family: str):
  """(model, anchors) of the file's widths; `family` is 'ssd' or 'ret'."""
  state, classes = group(data, 'param'), meta['num_classes']
  maps = [_nhwc(data[f'input/feat{i}']) for i in range(_count(data, 'input/feat'))]
  if family == 'ssd':
    widths = []
    while (name := f'neck.extra_layers.{len(widths)}.1.pointwise_conv.conv.weight') in state:
      widths.append(state[name].shape[0])
    model = _NeckAndHead(detection.SSDLiteNeck(tuple(widths)), detection.SSDLiteHead(classes))
    anchors = targets_of.ssdlite_anchors(maps[0].shape[1:3])
  else:
    maps = maps[1:]  # the finest map is passed by the official program and not used
    width = state['neck.lateral_convs.0.conv.weight'].shape[0]
    tower = [name for name in state if name.startswith('bbox_head.cls_convs.') and name.endswith('.conv.weight')]
    head = detection.RetinaNetHead(classes, state[tower[0]].shape[0], len(tower))
    model = _NeckAndHead(detection.PyramidNeck(width), head)
    anchors = targets_of.retinanet_anchors(maps[0].shape[1:3])
  return model, _import(model, state, maps), maps, anchors


def _detection(data: Data, meta: Mapping[str, Any], family: str) -> list[Check]:
  model, variables, maps, anchors = _detector(data, meta, family)
  classes, ssd = meta['num_classes'], family == 'ssd'
  levels, output = jax.jit(model.apply)(variables, maps)
  checks = []
  ends = np.cumsum(anchors.counts)[:-1]
  sizes = data['input/img_shape']
  valid = np.asarray(anchors.valid(sizes))
  per_level = zip(
    levels,
    jnp.split(output.logits, ends, axis=1),
    jnp.split(output.codes, ends, axis=1),
    np.split(anchors.boxes, ends),
    np.split(valid, ends, axis=1),
    strict=True,
  )
  for i, (level, logits, codes, boxes, flags) in enumerate(per_level):

    def spatial(x, level=level):
      return _nchw(x.reshape(*level.shape[:3], -1))

    checks += [
      Check(f'level{i}', _nchw(level), data[f'output/level{i}'], 5e-5),
      Check(f'cls{i}', spatial(logits), data[f'output/cls{i}'], 5e-5),
      Check(f'reg{i}', spatial(codes), data[f'output/reg{i}'], 5e-5),
      Check(f'anchors{i}', boxes, data[f'output/anchors{i}'], 1e-3),
      Check(f'valid{i}', flags, data[f'output/valid{i}'], 0),
    ]
  options = targets_of.SSDLITE if ssd else targets_of.RETINANET
  batch = len(sizes)
  truths = max(len(data[f'input/gt_labels{b}']) for b in range(batch)) + 2  # padding must not matter
  boxes, labels = np.zeros((batch, truths, 4), np.float32), np.zeros((batch, truths), np.int32)
  truth_valid = np.zeros((batch, truths), bool)
  for b in range(batch):
    n = len(data[f'input/gt_labels{b}'])
    boxes[b, :n], labels[b, :n], truth_valid[b, :n] = data[f'input/gt_boxes{b}'], data[f'input/gt_labels{b}'], True
  targets = options.targets(anchors, valid, boxes, labels, truth_valid, classes)
  box_weights = np.repeat(np.asarray(targets.positive)[..., None], 4, axis=-1)
  classification, box = options.losses(output.logits, output.codes, targets, anchors.counts)
  checks += [
    Check('target_labels', targets.labels, data['output/target_labels'], 0),
    Check('target_label_weights', targets.label_weights, data['output/target_label_weights'], 0),
    Check('target_boxes', targets.codes, data['output/target_boxes'], 1e-4),
    Check('target_box_weights', box_weights, data['output/target_box_weights'], 0),
    Check('num_total_pos', targets_of.positives(targets), data['output/num_total_pos'], 0),
    Check('loss_cls', classification, data['output/loss_cls'], 1e-4, relative=True),
    Check('loss_bbox', box, data['output/loss_bbox'], 1e-4, relative=True),
  ]
  found = jax.jit(lambda out, size: options.detect(*out, anchors, size))(output, jnp.asarray(sizes, jnp.float32))
  for b in range(batch):
    n = int(found.valid[b].sum())
    got = np.concatenate([found.boxes[b, :n], found.scores[b, :n, None], found.labels[b, :n, None]], axis=1)
    want = np.concatenate([data[f'output/det_boxes{b}'], data[f'output/det_labels{b}'][:, None]], axis=1)
    checks.append(Check(f'det_count{b}', n, len(want), 0))
    if n == len(want):
      got = got[_match(got, want)]
      checks += [
        Check(f'det_labels{b}', got[:, 5], want[:, 5], 0),
        Check(f'det_boxes{b}', got[:, :4], want[:, :4], 1e-2),
        Check(f'det_scores{b}', got[:, 4], want[:, 4], 1e-5),
      ]
  return checks


def _match(got: np.ndarray, want: np.ndarray) -> list[int]:
  """For each reference row the nearest free one: scores that agree to 1e-5 may come in another order."""
  free = np.ones(len(got), bool)
  order = []
  for row in want:
    distance = np.abs(got[:, :4] - row[:4]).max(axis=1) + 1e3 * (got[:, 5] != row[5])
    distance += 1e6 * (np.abs(got[:, 4] - row[4]) > 1e-5) + 1e9 * ~free
    order.append(int(np.argmin(distance)))
    free[order[-1]] = False
  return order


def _ssdlite(data: Data, meta: Mapping[str, Any]) -> list[Check]:
  return _detection(data, meta, 'ssd')


def _retinanet(data: Data, meta: Mapping[str, Any]) -> list[Check]:
  return _detection(data, meta, 'ret')


def _segmentation_head(name: str, state: Data, maps: list[jax.Array], classes: int, dilations: tuple[int, ...]):
  """(module as the full model names it, maps that it gets) of one head of the file."""
  width = state[f'{name}.conv_seg.weight'].shape[1]
  if name.startswith('aspp'):
    channels = state[f'{name}.aspp_modules.0.conv.weight'].shape[1]
    return segmentation.ASPPHead(classes, width, dilations), _up_to(maps, channels)
  if name.startswith('psp'):
    channels = state[f'{name}.psp_modules.0.1.conv.weight'].shape[1]
    return segmentation.PSPHead(classes, width), _up_to(maps, channels)
  if name.startswith('fcn'):
    channels = state[f'{name}.convs.0.conv.weight'].shape[1]
    return segmentation.FCNHead(classes, width, len(_up_to(maps, channels))), maps
  if name.startswith('sem_fpn'):
    pyramid = state['neck.lateral_convs.0.conv.weight'].shape[0]
    return segmentation.SemanticFPNHead(classes, pyramid, width), maps
  if name.startswith('segformer'):
    return segmentation.SegFormerHead(classes, width), maps
  raise ValueError(f'Unknown head {name!r}.')


def _up_to(maps: list[jax.Array], channels: int) -> list[jax.Array]:
  """Maps up to the one that has so many channels."""
  for i, x in enumerate(maps):
    if x.shape[-1] == channels:
      return maps[: i + 1]
  raise ValueError(f'No map has {channels} channels.')


def _dilations(name: str, meta: Mapping[str, Any]) -> list[tuple[int, ...]]:
  """The dilations of an ASPP head. The files do not say those of the small one; beyond the map's size all are equal."""
  if 'dilations' in meta:
    return [tuple(meta['dilations'])]
  return [(1, 2, 3, last) for last in (6, 5, 7, 8, 9, 10, 12)] if name == 'aspp_small' else [(1, 12, 24, 36)]


class _Slot(nn.Module):
  """Puts a neck or a head where the full model has it, so that its weights import by their official names."""

  neck: nn.Module | None = None
  head: nn.Module | None = None
  auxiliary: nn.Module | None = None

  def __call__(self, maps):
    return (self.neck or self.head or self.auxiliary)(maps)


def _segmentation(data: Data, meta: Mapping[str, Any]) -> list[Check]:
  state, classes = group(data, 'param'), meta['num_classes']
  maps = [_nhwc(data[f'input/feat{i}']) for i in range(_count(data, 'input/feat'))]
  label = jnp.asarray(data['input/label'])
  neck = {name: value for name, value in state.items() if name.startswith('neck.')}
  checks = []
  if neck:
    model = _Slot(neck=detection.PyramidNeck(neck['neck.lateral_convs.0.conv.weight'].shape[0], extra=0))
    levels = model.apply(_import(model, neck, maps), maps)
    checks += [Check(f'fpn{i}', _nchw(x), data[f'output/fpn{i}'], 5e-5) for i, x in enumerate(levels)]
  for name in meta['heads']:
    auxiliary = name.startswith('fcn')
    prefix = 'auxiliary_head.' if auxiliary else 'decode_head.'
    own = {prefix + k[len(name) + 1 :]: v for k, v in state.items() if k.startswith(f'{name}.')}
    own.update(neck if name.startswith('sem_fpn') else {})

    def run(dilations, name=name, own=own, auxiliary=auxiliary):
      head, inputs = _segmentation_head(name, state, maps, classes, dilations)
      model = _Slot(auxiliary=head) if auxiliary else _Slot(head=head)
      return jax.jit(model.apply)(_import(model, own, inputs), inputs)

    wanted = data[f'output/{name}.logits']
    logits, smallest = None, np.inf
    for dilations in _dilations(name, meta):
      candidate = run(dilations)
      error = np.abs(_nchw(candidate) - wanted).max()
      logits, smallest = (candidate, error) if error < smallest else (logits, smallest)
      if smallest <= 5e-5:
        break
    weight = segmentation.AUXILIARY_WEIGHT if auxiliary else 1.0
    loss = weight * segmentation.pixel_loss(logits, label)
    full = segmentation.full_size(logits, label.shape[1:3])
    prediction = np.array(jnp.argmax(full, axis=-1))
    want = data[f'output/{name}.pred']
    best, second = jax.lax.top_k(full, 2)[0].transpose(3, 0, 1, 2)
    undecided = np.asarray(best - second) < 1e-4  # rounding may choose there
    prediction[undecided] = want[undecided]
    accuracy = 100 * segmentation_ops.pixel_accuracy(full, label)
    checks += [
      Check(f'{name}.logits', _nchw(logits), data[f'output/{name}.logits'], 5e-5),
      Check(f'{name}.loss', loss, data[f'output/{name}.loss'], 1e-4, relative=True),
      Check(f'{name}.acc', accuracy, data[f'output/{name}.acc'], 0.05),
      Check(f'{name}.pred', prediction, want, 0),
    ]
    if f'output/{name}.IoU' in data:
      metrics = segmentation_ops.iou_metrics(segmentation_ops.confusion(prediction, label, classes))
      checks += [
        Check(f'{name}.{key}', metrics[key], data[f'output/{name}.{key}'], 1e-5) for key in ('IoU', 'Acc', 'aAcc')
      ]
  return checks


KINDS = {'ssd': _ssdlite, 'ret': _retinanet, 'seg': _segmentation}
