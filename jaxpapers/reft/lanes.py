"""Rows of the few-shot table side by side: one compiled program trains and evaluates all of them.

A lane is one variant, one K and one K-shot set. All share a network whose parts are switched (`model.Switches`), one
stream of random numbers per K-shot set, and one order of images: what differs between two lanes of a set is the
variant alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.engine.training import TrainState
from jaxpapers.reft import inference, shapes_batches
from jaxpapers.reft.fewshapes import NAMES, Scenes
from jaxpapers.reft.incremental import Distillation, incremental_loss, trained_parts
from jaxpapers.reft.model import RefT, Support, Switches
from jaxpapers.reft.training import Loss, episode_loss, without_inactive

CLASSES = len(NAMES)


class Variant(NamedTuple):
  """A row of the table.

  Attributes:
    first: pixels look at class centres.
    second: object queries look at those of the examples.
    rows: the classifier takes the support's queries; novel rows then start at zero, else at random.
    frozen: all stays but the input projections, the references and the classifier's novel rows.
    distilled: weight of the distillation of the base model.
    enhanced: its extra weight of pixels like a base class.
  """

  first: float = 0.0
  second: float = 0.0
  rows: float = 0.0
  frozen: float = 0.0
  distilled: float = 0.0
  enhanced: float = 1.0


VARIANTS = {
  'baseline': Variant(),
  'first': Variant(first=1.0),
  'second': Variant(second=1.0),
  'both': Variant(first=1.0, second=1.0),
  'support': Variant(rows=1.0),
  'support_both': Variant(first=1.0, second=1.0, rows=1.0),
}
INCREMENTAL = {
  'all_trained': Variant(first=1.0, second=1.0),
  'frozen': Variant(first=1.0, second=1.0, frozen=1.0),
  'distilled': Variant(first=1.0, second=1.0, frozen=1.0, distilled=1.0, enhanced=0.0),
  'class_enhanced': Variant(first=1.0, second=1.0, frozen=1.0, distilled=1.0),
}


class Lane(NamedTuple):
  """One training.

  Attributes:
    name: of the variant.
    shots: K.
    seed: index of the K-shot set.
  """

  name: str
  shots: int
  seed: int


class Lanes(NamedTuple):
  """Trainings side by side, and what they share.

  Attributes:
    lanes: in the order of the leading axis.
    variants: by name.
    sets: [K-shot sets] scenes of the largest K; image j * classes + c is shot j of class c.
    classes: of the query images: all for gFSIS, the novel ones for FSIS and iFSIS.
    support_classes: of the examples; incremental learning keeps those of the base classes.
    batch_size: query images of a step.
  """

  lanes: Sequence[Lane]
  variants: Mapping[str, Variant]
  sets: Sequence[Scenes]
  classes: tuple[int, ...]
  support_classes: tuple[int, ...]
  batch_size: int

  def settings(self) -> Variant:
    """The variants' settings, [lanes] each."""
    rows = [self.variants[lane.name] for lane in self.lanes]
    return Variant(*(np.asarray(column, np.float32) for column in zip(*rows, strict=True)))

  def batch(self, step: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Indices of a step's query images and support examples in each lane's set; the same for all variants of a set."""
    queries, support = [], []
    for lane in self.lanes:
      rng = np.random.default_rng([seed, 13, lane.seed, lane.shots, step])
      shot = rng.integers(lane.shots, size=self.batch_size)
      queries.append(shot * CLASSES + rng.choice(self.classes, self.batch_size))
      # With one shot an example is the query object itself under another augmentation.
      known = np.asarray(self.support_classes)
      support.append(rng.integers(lane.shots, size=len(known)) * CLASSES + known)
    sets = np.asarray([lane.seed for lane in self.lanes], np.int32)
    return {'query': np.asarray(queries, np.int32), 'support': np.asarray(support, np.int32), 'set': sets}


def active_classes(classes: Sequence[int]) -> jax.Array:
  """[CLASSES] bool."""
  return jnp.zeros(CLASSES, bool).at[jnp.asarray(classes)].set(True)


def lane_params(params: Any, key: jax.Array, rows: jax.Array, novel: Sequence[int]) -> Any:
  """Base parameters with fresh rows for the novel classes: zero where the support makes them, else random."""
  head = params['base']['decoder']['classifier']
  fresh = 0.01 * jax.random.normal(key, head['weight'].shape)
  is_novel = jnp.zeros((CLASSES + 1, 1), bool).at[jnp.asarray(novel)].set(True)
  weight = jnp.where(is_novel, jnp.where(rows > 0, 0.0, fresh), head['weight'])
  decoder = {**params['base']['decoder'], 'classifier': {**head, 'weight': weight}}
  return {**params, 'base': {**params['base'], 'decoder': decoder}}


def initial_state(
  lanes: Lanes, params: Any, optimizer: optax.GradientTransformation, key: jax.Array, novel
) -> TrainState:
  """All lanes from one base model."""
  settings = lanes.settings()
  keys = jnp.stack([jax.random.fold_in(key, lane.seed) for lane in lanes.lanes])
  stacked = jax.vmap(lambda k, rows: lane_params(params, k, rows, novel))(keys, settings.rows)
  return TrainState(jnp.zeros((), jnp.int32), stacked, {}, jax.vmap(optimizer.init)(stacked), None)


def lane_step(
  model: RefT,
  lanes: Lanes,
  optimizer: optax.GradientTransformation,
  loss: Loss,
  *,
  novel: Sequence[int],
  distilled: bool = False,
  feature_weight: float = 0.1,
  class_weight: float = 2.0,
) -> Callable:
  """(state, batch, key) -> (state, metrics): one update of every lane, one after the other inside the program.

  Args:
    model: the network.
    lanes: the trainings.
    optimizer: of each.
    loss: settings of the set loss.
    novel: the new classes.
    distilled: lanes may be distilled from the base model, 'teacher' in the state (see `incremental.teacher_of`).
    feature_weight: of `distillation.feature_distillation`.
    class_weight: of `distillation.class_distillation`.
  """
  images, masks, classes = (np.stack(x) for x in zip(*lanes.sets, strict=True))
  settings = lanes.settings()
  active = active_classes(lanes.support_classes)

  def objective(params, batch, key, lane, old):
    switches = Switches(lane.first, lane.second, lane.rows)
    variables = {'params': params}
    if old is None:
      return episode_loss(model, variables, batch, active, key, loss, switches=switches)
    weights = Distillation(lane.distilled * feature_weight, lane.distilled * class_weight, lane.enhanced)
    return incremental_loss(
      model, variables, old, batch, active, key, loss, novel=novel, weights=weights, switches=switches
    )

  def step(state: TrainState, batch: Mapping[str, jax.Array], key: jax.Array):
    old = state.model_state['teacher'] if distilled else None

    def one(arguments):
      params, opt_state, lane, chosen = arguments
      pool = tuple(jnp.asarray(x)[chosen['set']] for x in (images, masks, classes))
      lane_key = jax.random.fold_in(key, chosen['set'])
      augment_key, point_key = jax.random.split(lane_key)
      query, support = ([x[chosen[name]] for x in pool] for name in ('query', 'support'))
      prepared = shapes_batches.prepare_episode(
        {
          **dict(zip(('images', 'masks', 'classes'), query, strict=True)),
          'support': {'images': support[0], 'masks': support[1][:, 0], 'classes': support[2][:, 0]},
        },
        augment_key,
      )

      def scalar(params):
        value, metrics = objective(params, prepared, point_key, lane, old)
        return value, {'loss': value, **metrics}

      (_, metrics), grads = jax.value_and_grad(scalar, has_aux=True)(params)
      free = jax.tree.map(lambda part: jnp.where(lane.frozen > 0, part, 1.0), trained_parts(params, novel, CLASSES))
      grads = jax.tree.map(jnp.multiply, grads, free)
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return optax.apply_updates(params, jax.tree.map(jnp.multiply, updates, free)), opt_state, metrics

    params, opt_state, metrics = jax.lax.map(one, (state.params, state.opt_state, Variant(*settings), batch))
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
    return state, jax.tree.map(jnp.mean, metrics)

  return step


def lane_support(model: RefT, params: Any, pool: Sequence[jax.Array], shots: jax.Array) -> Support:
  """Support of one lane from the first `shots` examples of every class of its set."""
  images, masks, classes = pool
  kept = jnp.where(jnp.arange(len(images)) < shots * CLASSES, classes[:, 0], -1)
  normalised = shapes_batches.normalise(images)
  return model.apply({'params': params}, normalised, masks[:, 0], kept, method='support')


def evaluate_lanes(model: RefT, lanes: Lanes) -> Callable:
  """(state, batch) -> scores [images, lanes, queries, classes] and IoU [images, lanes, queries, objects].

  The support of every lane is encoded anew in each call: use few, large batches.
  """
  images, masks, classes = (np.stack(x) for x in zip(*lanes.sets, strict=True))
  settings = lanes.settings()
  # FSIS knows the novel classes alone.
  active = active_classes(lanes.support_classes)
  classes = np.where(np.isin(classes, lanes.support_classes), classes, -1)
  which = np.asarray([lane.seed for lane in lanes.lanes], np.int32)
  shots = np.asarray([lane.shots for lane in lanes.lanes], np.int32)

  def step(state: TrainState, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    def one(arguments):
      params, lane, number, chosen = arguments
      pool = [jnp.asarray(x)[chosen] for x in (images, masks, classes)]
      support = lane_support(model, params, pool, number)
      switches = Switches(lane.first, lane.second, lane.rows)
      found = model.apply({'params': params}, shapes_batches.normalise(batch['images']), support, switches=switches)
      size = batch['images'].shape[1:3]
      told = inference.query_masks(without_inactive(found.logits[-1], active), found.masks[-1], size)
      return told.scores, inference.mask_ious(told.masks, batch['masks'])

    scores, ious = jax.lax.map(one, (state.params, Variant(*settings), jnp.asarray(shots), jnp.asarray(which)))
    swap = lambda x: jnp.swapaxes(x, 0, 1)  # noqa: E731
    return {'scores': swap(scores), 'ious': swap(ious), 'classes': batch['classes'], 'valid': batch['valid']}

  return step
