import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxpapers.cmt import coder, denoising, losses, matching
from jaxpapers.cmt.head import HeadOutput

encode = jax.jit(coder.encode_boxes)
decode = jax.jit(coder.decode, static_argnames=('max_num', 'post_center_range', 'fixed_order'))
RANGE = (-20.0, -20.0, -3.0, 20.0, 20.0, 3.0)
CLASSES, QUERIES, LAYERS = 3, 8, 2


def random_boxes(rng, batch, count):
  boxes = rng.uniform(-10, 10, (batch, count, 9)).astype(np.float32)
  boxes[..., 3:6] = rng.uniform(0.5, 4, (batch, count, 3))
  return boxes, rng.integers(0, CLASSES, (batch, count)).astype(np.int32)


def random_task(rng, batch, queries=QUERIES, classes=CLASSES):
  sizes = {'center': 2, 'height': 1, 'dim': 3, 'rot': 2, 'vel': 2, 'cls_logits': classes}
  return {name: rng.standard_normal((LAYERS, batch, queries, size)).astype(np.float32) for name, size in sizes.items()}


def head_output(tasks, noised=None):
  layers, batch, queries, _ = tasks[0]['center'].shape
  return HeadOutput(tasks, noised, np.zeros((batch, queries, 3)), np.zeros((layers, batch, queries, 4), np.float32))


def perfect(boxes, labels, slots, fixed_order):
  """Outputs that stand for the boxes, at the given queries; far from them elsewhere."""
  batch, count = labels.shape
  code = np.asarray(encode(boxes))
  full = np.full((LAYERS, batch, QUERIES, 10), 30.0, np.float32)
  logits = np.full((LAYERS, batch, QUERIES, CLASSES), -8.0, np.float32)
  for b in range(batch):
    full[:, b, slots[b]] = code[b]
    logits[:, b, slots[b], labels[b]] = 8.0
  order = [4, 2, 3, 5] if fixed_order else [2, 3, 4, 5]  # where height and the three of dim lie in a code
  return {
    'center': full[..., :2],
    'height': full[..., order[:1]],
    'dim': full[..., order[1:]],
    'rot': full[..., 6:8],
    'vel': full[..., 8:],
    'cls_logits': logits,
  }


@pytest.fixture(scope='module')
def total():
  """(task, boxes, labels, mask, fixed) -> ((loss, (terms, queries)), gradients)."""

  def run(task, boxes, labels, mask, fixed):
    output = head_output((task,))
    loss, terms = losses.total_loss(output, None, boxes, labels, mask, fixed_order=fixed)
    return loss, (terms, losses.assignments(output, boxes, labels, mask, fixed_order=fixed)[0])

  return jax.jit(jax.value_and_grad(run, has_aux=True), static_argnums=4)


@pytest.mark.parametrize('fixed', [False, True])
def test_perfect_outputs_are_found_and_cost_nothing(total, fixed):
  rng = np.random.default_rng(0)
  boxes, labels = random_boxes(rng, 2, 3)
  slots = np.stack([rng.permutation(QUERIES)[:3] for _ in range(2)])
  task, mask = perfect(boxes, labels, slots, fixed), np.ones((2, 3), bool)
  (loss, (terms, queries)), _ = total(task, boxes, labels, mask, fixed)
  assert np.array_equal(queries, np.broadcast_to(slots, queries.shape))
  assert terms['box'] == 0 and terms['label'] < 1e-4 and terms['dn_box'] == terms['dn_label'] == 0
  assert loss == sum(terms.values())
  found = decode((task,), max_num=3, fixed_order=fixed)
  order = np.argsort(np.asarray(found.boxes)[..., 0], axis=1)
  want = np.argsort(boxes[..., 0], axis=1)
  turn = np.angle(np.exp(1j * boxes[..., 6:7]))
  expected = np.concatenate([boxes[..., :6], turn, boxes[..., 7:]], axis=-1)
  for b in range(2):
    np.testing.assert_allclose(np.asarray(found.boxes)[b, order[b]], expected[b, want[b]], atol=1e-4)
    assert np.array_equal(np.asarray(found.labels)[b, order[b]], labels[b, want[b]])


@pytest.mark.parametrize('count', [0, 1])
def test_boxes_that_count_and_those_that_do_not(total, count):
  """Against the published formulas in NumPy: padding and boxes without extent are dropped, no box at all is finite."""
  rng = np.random.default_rng(1)
  boxes, labels = random_boxes(rng, 2, 3)
  mask = np.zeros((2, 3), bool)
  mask[0, 1 : 1 + 2 * count] = True
  boxes[0, 2, 3] = 0.0  # its logarithm is not finite: it counts as matched, and its row is dropped
  boxes[1] = 0.0
  task = random_task(rng, 2)
  (loss, (terms, queries)), gradients = total(task, boxes, labels, mask, False)
  assert np.isfinite(loss) and all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
  label = box = 0.0
  for layer in range(LAYERS):
    targets = np.zeros((2, QUERIES, CLASSES))
    for b, g in np.argwhere(mask):
      targets[b, queries[layer, b, g], labels[b, g]] = 1
    z = task['cls_logits'][layer].astype(np.float64)
    p = np.where(targets == 1, 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z)))
    focal = np.where(targets == 1, 0.25, 0.75) * (1 - p) ** 2 * -np.log(p)
    positives = mask.sum()
    label += 2 * focal.sum() / max(positives + 0.1 * (2 * QUERIES - positives), 1)
    if count:
      code = np.concatenate([task[name][layer, 0] for name in ('center', 'height', 'dim', 'rot', 'vel')], axis=-1)
      distance = np.abs(code[queries[layer, 0, 1]] - np.asarray(encode(boxes[0, 1])))
      box += 0.25 * (distance * matching.CODE_WEIGHTS).sum() / positives
  np.testing.assert_allclose(terms['label'], label, rtol=1e-5)
  np.testing.assert_allclose(terms['box'], box, rtol=1e-5)


def test_assignment_is_optimal_and_survives_what_is_not_finite():
  rng = np.random.default_rng(2)
  cost = rng.normal(size=(2, 3, 4, 9)).astype(np.float32)
  valid = np.array([[True] * 4, [True, False, True, False], [False] * 4])[None].repeat(2, axis=0)
  assign = jax.jit(matching.assign)
  chosen = np.asarray(assign(cost, valid))
  for index in np.ndindex(2, 3):
    rows = np.flatnonzero(valid[index])
    _, columns = scipy.optimize.linear_sum_assignment(cost[index][rows])
    assert np.array_equal(chosen[index][rows], columns)
    assert len(set(chosen[index])) == 4
  cost[0, 0, 1] = np.nan
  cost[0, 0, 2] = np.inf
  chosen = np.asarray(assign(cost, valid))[0, 0]
  assert len(set(chosen)) == 4
  with pytest.raises(ValueError, match='10 boxes .* cannot be matched with 9 queries'):
    matching.assign(jnp.zeros((10, 9)), jnp.ones(10, bool))


@pytest.fixture(scope='module')
def noised():
  settings = {'num_queries': 20, 'num_classes': CLASSES, 'pc_range': RANGE, 'groups': 4}
  return jax.jit(lambda *args: denoising.noised_queries(*args, **settings))


def test_noised_queries(noised):
  rng = np.random.default_rng(3)
  boxes, labels = random_boxes(rng, 2, 6)
  mask = np.array([[True, False, True, True, False, True], [False, False, False, True, False, False]])
  noise = np.asarray(denoising.draw_noise(jax.random.key(0), 2, denoising.num_slots(20, 6, 4)))
  made = noised(noise, boxes, labels, mask)
  assert made.references.shape == (2, 20, 3) and noise.min() < -0.9 and noise.max() > 0.9
  # Four groups of the fullest sample's four boxes, at the end; the second sample fills one slot of each.
  assert np.array_equal(made.used, np.arange(20) >= 4)
  assert made.valid.sum(axis=1).tolist() == [16, 4] and float(made.count) == 4 * 5
  assert np.array_equal(made.group, [-1] * 4 + [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4)
  source = np.flatnonzero(mask[0])
  for slot in range(4, 20):
    own = source[(slot - 4) % 4]
    assert np.array_equal(made.boxes[0, slot], boxes[0, own]) and made.raw_labels[0, slot] == labels[0, own]
    center = boxes[0, own, :3] + [0, 0, boxes[0, own, 5] / 2] + noise[0, slot] * boxes[0, own, 3:6] / 2
    want = np.clip((center - RANGE[:3]) / (np.array(RANGE[3:]) - RANGE[:3]), 0, 1)
    np.testing.assert_allclose(made.references[0, slot], want, atol=1e-6)
    quiet = np.linalg.norm(noise[0, slot]) <= 0.75
    assert made.labels[0, slot] == (labels[0, own] if quiet else CLASSES)
  assert {int(n) for n in made.labels[0, 4:]} > {CLASSES}  # both kinds occur
  # More boxes than queries / groups: fewer groups.
  assert noised(noise, boxes, labels, np.ones((2, 6), bool)).group.max() + 1 == 3
  nothing = noised(noise, boxes, labels, np.zeros((2, 6), bool))
  assert not nothing.used.any() and not nothing.valid.any() and nothing.count == 0
  assert nothing.blocked[:, :20].all() and not nothing.blocked[:, 20:].any()


def test_denoising_terms(noised):
  rng = np.random.default_rng(4)
  boxes, labels = random_boxes(rng, 2, 6)
  noise = rng.uniform(-1, 1, (2, 20, 3)).astype(np.float32)
  tasks = (random_task(rng, 2, classes=1), random_task(rng, 2, classes=2))
  queries = (random_task(rng, 2, 20, 1), random_task(rng, 2, 20, 2))
  run = jax.jit(lambda made, mask: losses.loss_terms(head_output(tasks, queries), made, boxes, labels, mask))
  mask = np.array([[True, False, True, True, False, True], [False, False, False, True, False, False]])
  made = jax.device_get(noised(noise, boxes, labels, mask))
  terms = run(made, mask)
  label, box = np.zeros(LAYERS), np.zeros(LAYERS)
  for first, task in zip((0, 1), queries, strict=True):
    classes = task['cls_logits'].shape[-1]
    for b, slot in np.argwhere(made.valid):
      target = np.arange(first, first + classes) == made.labels[b, slot]
      z = task['cls_logits'][:, b, slot].astype(np.float64)
      p = np.where(target, 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z)))
      label += 2 * (np.where(target, 0.25, 0.75) * (1 - p) ** 2 * -np.log(p)).sum(axis=-1)
      if first <= made.raw_labels[b, slot] < first + classes:
        code = np.concatenate([task[name][:, b, slot] for name in ('center', 'height', 'dim', 'rot', 'vel')], axis=-1)
        distance = np.abs(code - np.asarray(encode(made.boxes[b, slot])))
        box += 0.25 * (distance * matching.CODE_WEIGHTS).sum(axis=-1)
  np.testing.assert_allclose(terms.dn_label, label / (20 * np.pi / 6 * 0.75**3), rtol=1e-5)
  np.testing.assert_allclose(terms.dn_box, box / 20, rtol=1e-5)
  none = np.zeros((2, 6), bool)
  empty = run(noised(noise, boxes, labels, none), none)
  assert all(np.isfinite(x).all() for x in empty) and not empty.dn_label.any() and not empty.dn_box.any()


def test_detections_are_the_best_and_say_which_lie_in_range():
  rng = np.random.default_rng(5)
  tasks = (random_task(rng, 2, classes=1), random_task(rng, 2, classes=2))
  for task in tasks:
    task['dim'][..., 1] *= 3.0  # z, in the published order
  found = decode(tasks, max_num=10, post_center_range=(-1.5, -1.5, -3.0, 1.5, 1.5, 3.0))
  logits = np.concatenate([task['cls_logits'][-1] for task in tasks], axis=-1)
  for b in range(2):
    best = np.argsort(-logits[b].ravel(), kind='stable')[:10]
    np.testing.assert_allclose(found.scores[b], 1 / (1 + np.exp(-logits[b].ravel()[best])), rtol=1e-5)
    assert np.array_equal(found.labels[b], best % 3)
    for row, (query, label) in enumerate(zip(best // 3, best % 3, strict=True)):
      task = tasks[int(label > 0)]
      height = np.exp(task['dim'][-1, b, query, 2])
      center = [*task['center'][-1, b, query], task['dim'][-1, b, query, 1]]
      np.testing.assert_allclose(found.boxes[b, row, :3], np.subtract(center, [0, 0, height / 2]), rtol=1e-4, atol=1e-4)
      assert found.valid[b, row] == np.all(np.abs(center) <= [1.5, 1.5, 3.0])
  assert 0 < found.valid.sum() < 20
