"""All defences on all attacks, many victims at once."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.doorping import (
  activation_clustering,
  brain_stimulation,
  denoiser,
  fine_pruning,
  input_transform,
  neural_cleanse,
  scan,
  spectral,
  spectre,
  strip,
)
from jaxpapers.doorping.defence import Network, Outcome, class_rows, detection, success_rates
from jaxpapers.doorping.trigger import stamp

CLEAN = 'clean'


class Attacked(NamedTuple):
  """What an attack (or its absence) left behind, over `lanes` victims.

  Attributes:
    params: of the victims, every leaf with a leading axis [lanes].
    images: distilled sets that they were trained on [lanes, images, height, width, channels], normalised.
    trigger: [lanes, height, width, channels] normalised; for the clean case a trigger that serves as control.
  """

  params: Any
  images: jax.Array
  trigger: jax.Array


class Trusted(NamedTuple):
  """What the defender holds, and what the outcome is measured on; images are normalised.

  Attributes:
    images: clean real images of the defender [N, height, width, channels], some hundred.
    labels: [N] int32.
    test_images: [T, height, width, channels].
    test_labels: [T] int32.
    mean: [channels] of the normalisation.
    std: [channels].
  """

  images: jax.Array
  labels: jax.Array
  test_images: jax.Array
  test_labels: jax.Array
  mean: jax.Array
  std: jax.Array


class Options(NamedTuple):
  """How much every defence does.

  Attributes:
    lanes_at_once: victims under one vmap; 1 takes one after the other.
    models: victims that the model defences with inversion look at, at most.
    inversion_images: clean images for Neural Cleanse and ABS.
    cleanse_epochs: of Neural Cleanse, 64 images a step.
    labels_at_once: labels of Neural Cleanse under one vmap; 0 takes all. One by one takes a third of the time on CPU.
    abs_epochs: steps of the inversion of ABS.
    abs_size: mask entries of ABS that cost little.
    overlays: of STRIP.
    strip_images: clean and triggered images that STRIP looks at.
    blend: share of the overlay in STRIP; None adds it.
    prune_loss: clean accuracy that pruning may cost.
    tune_epochs: of fine-pruning.
    denoiser_steps: of training.
    dimensions: directions that SPECTRE keeps.
    ratio: expected share of attacked images in a class, which sets how many spectral signatures remove.
  """

  lanes_at_once: int = 1
  models: int = 6
  inversion_images: int = 64
  cleanse_epochs: int = 100
  labels_at_once: int = 1
  abs_epochs: int = 50
  abs_size: int = 16
  overlays: int = 10
  strip_images: int = 200
  blend: float | None = None
  prune_loss: float = 0.04
  tune_epochs: int = 10
  denoiser_steps: int = 600
  dimensions: int = 4
  ratio: float = 0.1


class _Setting(NamedTuple):
  network: Network
  trusted: Trusted
  rows: np.ndarray  # distilled row numbers by class
  mask: jax.Array
  target: int
  options: Options

  @property
  def classes(self) -> int:
    return len(self.rows)

  def normalise(self, pixels: jax.Array) -> jax.Array:
    return (pixels - self.trusted.mean) / self.trusted.std

  def pixels(self, images: jax.Array) -> jax.Array:
    return jnp.clip(images * self.trusted.std + self.trusted.mean, 0.0, 1.0)

  def predict(self, params: Any, images: jax.Array) -> jax.Array:
    return jnp.argmax(self.network.forward(params, images)[0], axis=-1)

  def rates(self, params: Any, change: Callable[[jax.Array], jax.Array], trigger: jax.Array) -> jax.Array:
    """(CTA, ASR) where `change` stands before the victim."""
    test, labels = self.trusted.test_images, self.trusted.test_labels
    triggered = self.predict(params, change(stamp(test, trigger, self.mask)))
    return success_rates(self.predict(params, change(test)), labels, triggered, self.target)


def defend(
  network: Network,
  attacks: Mapping[str, Attacked],
  trusted: Trusted,
  distilled_labels: np.ndarray,
  mask: jax.Array,
  target: int,
  key: jax.Array,
  options: Options | None = None,
  retrain: Callable[[jax.Array, jax.Array, jax.Array], Any] | None = None,
) -> dict[str, dict[str, Outcome]]:
  """Runs the defence suite (section 6.1).

  Args:
    network: of the victims.
    attacks: by name; 'clean' must be among them, since thresholds of the model defences come from its victims.
    trusted: the defender's clean data and the test set.
    distilled_labels: [images] of all distilled sets, equally many per class.
    mask: [height, width, channels], 1 in the patch.
    target: the attacked label.
    key: random key.
    options: how much is done.
    retrain: (images [images, height, width, channels], labels [images], key) -> params of a fresh victim; without it
      the distilled set is not purified.

  Returns:
    {defence: {attack: Outcome}}.

  Raises:
    ValueError: without clean victims, for a target that is no class, or classes of different sizes.
  """
  if CLEAN not in attacks:
    raise ValueError(f'The defences need victims of a clean set under the name {CLEAN!r}, not only {list(attacks)}.')
  options = options or Options()
  rows = class_rows(distilled_labels)
  if not 0 <= target < len(rows):
    raise ValueError(f'Target {target} is not a class: it must lie between 0 and {len(rows) - 1}.')
  trusted = Trusted(*(jnp.asarray(x) for x in trusted))
  setting = _Setting(network, trusted, rows, jnp.asarray(mask), target, options)
  keys = jax.random.split(key, 8)
  # The denoiser is the same for all attacks and victims: it sees the trusted images only.
  variables = jax.jit(partial(denoiser.fit, steps=options.denoiser_steps))(setting.pixels(trusted.images), keys[0])
  defences: dict[str, Callable] = {
    'neural cleanse': partial(_neural_cleanse, key=keys[1]),
    'ABS': partial(_abs, key=keys[2]),
    'fine-pruning': _fine_pruning,
    'STRIP': partial(_strip, key=keys[3]),
    'denoiser (inputs)': partial(_denoised_inputs, variables=variables),
    'median filter': _median,
    'shrink and pad': partial(_shrink, key=keys[4]),
    'spectral signatures': _spectral,
    'SPECTRE': _spectre,
    'SCAn': partial(_scan, key=keys[5]),
    'activation clustering': _clustering,
  }
  if retrain is not None:
    labels = jnp.asarray(distilled_labels)
    defences['denoiser (distilled set)'] = partial(
      _denoised_set, variables=variables, retrain=retrain, labels=labels, key=keys[6]
    )
  return {name: _timed(defence, setting, attacks) for name, defence in defences.items()}


def _timed(defence: Callable, setting: _Setting, attacks: Mapping[str, Attacked]) -> dict[str, Outcome]:
  """One defence on every attack; the program is compiled once, for the first of them."""
  over = defence(setting)
  outcomes = {}
  for name, attacked in attacks.items():
    started = time.perf_counter()
    outcomes[name] = over(attacked)._replace(seconds=time.perf_counter() - started)
  if outcomes[CLEAN].level == 'model' and outcomes[CLEAN].scores.size:
    clean = outcomes[CLEAN].scores
    for name, outcome in outcomes.items():
      auroc, tpr = detection(outcome.scores, clean)
      outcomes[name] = outcome._replace(clean_scores=clean, auroc=auroc, tpr=tpr)
  return outcomes


def _lanes(setting: _Setting, one: Callable[..., Any], limit: int = 0) -> Callable[[Attacked], Any]:
  """Compiles `one(setting, params, images, trigger)` for all victims of an Attacked, or its first `limit`."""

  @jax.jit
  def run(trusted, attacked):
    # The data are arguments of the program: as constants, the compiler would work on them for minutes.
    given = setting._replace(trusted=trusted)
    if limit:
      attacked = jax.tree.map(lambda x: x[:limit], attacked)
    return jax.lax.map(lambda lane: one(given, *lane), attacked, batch_size=setting.options.lanes_at_once)

  return lambda attacked: jax.tree.map(np.asarray, run(setting.trusted, Attacked(*attacked)))


def _changed(level: str, before: np.ndarray, after: np.ndarray, **details: np.ndarray) -> Outcome:
  """Outcome of a defence that changes rates; `before` and `after` are [lanes, 2]."""
  (cta, asr), (cta_after, asr_after) = before.mean(axis=0), after.mean(axis=0)
  return Outcome(
    level,
    np.zeros(0),
    np.zeros(0),
    cta=(float(cta), float(cta_after)),
    asr=(float(asr), float(asr_after)),
    details={'before': before, 'after': after, **details},
  )


def _others(values: np.ndarray, target: int) -> np.ndarray:
  return np.delete(values, target, axis=-1)


def _neural_cleanse(setting: _Setting, key: jax.Array) -> Callable[[Attacked], Outcome]:
  options = setting.options
  pixels = np.asarray(setting.pixels(setting.trusted.images[: options.inversion_images]))
  batches, weights = (jnp.asarray(x) for x in neural_cleanse.mini_batches(pixels, 64))

  def one(setting, params, images, trigger):
    del images, trigger
    patches = neural_cleanse.invert_all(
      lambda x: setting.network.forward(params, setting.normalise(x))[0],
      batches,
      weights,
      setting.classes,
      key,
      at_once=options.labels_at_once or None,
      epochs=options.cleanse_epochs,
    )
    return patches, neural_cleanse.flag(patches.norm)

  run = _lanes(setting, one, options.models)

  def over(attacked):
    patches, flags = run(attacked)
    # A model is as suspicious as its smallest patch is an outlier.
    small = np.where(patches.norm <= flags.median[:, None], flags.index, 0.0)
    return Outcome(
      'model',
      small.max(axis=1),
      np.zeros(0),
      flagged=float(flags.flagged[:, setting.target].mean()),
      false_flags=float(_others(flags.flagged, setting.target).mean()),
      details={'norms': patches.norm, 'index': flags.index, 'masks': patches.mask, 'patterns': patches.pattern},
    )

  return over


def _abs(setting: _Setting, key: jax.Array) -> Callable[[Attacked], Outcome]:
  options = setting.options

  def one(setting, params, images, trigger):
    del images, trigger
    pixels = setting.pixels(setting.trusted.images[: options.inversion_images])
    labels = setting.trusted.labels[: options.inversion_images]
    return brain_stimulation.stimulate(
      setting.network,
      params,
      pixels,
      labels,
      setting.normalise,
      key,
      max_size=options.abs_size,
      epochs=options.abs_epochs,
    )[1].rate

  run = _lanes(setting, one, options.models)

  def over(attacked):
    rates = run(attacked)
    flagged = rates >= brain_stimulation.REASR_LIMIT
    return Outcome(
      'model',
      rates.max(axis=1),
      np.zeros(0),
      flagged=float(flagged[:, setting.target].mean()),
      false_flags=float(_others(flagged, setting.target).mean()),
      details={'rates': rates},
    )

  return over


def _fine_pruning(setting: _Setting) -> Callable[[Attacked], Outcome]:
  options = setting.options

  def one(setting, params, images, trigger):
    del images
    trusted = setting.trusted
    triggered = stamp(trusted.test_images, trigger, setting.mask)
    return fine_pruning.fine_prune(
      setting.network,
      params,
      trusted.images,
      trusted.labels,
      trusted.test_images,
      trusted.test_labels,
      triggered,
      setting.target,
      loss=options.prune_loss,
      epochs=options.tune_epochs,
    )

  run = _lanes(setting, one)

  def over(attacked):
    result = run(attacked)
    return _changed('model', result.curve[:, 0], result.tuned, curve=result.curve, pruned=result.pruned)

  return over


def _strip(setting: _Setting, key: jax.Array) -> Callable[[Attacked], Outcome]:
  options = setting.options

  def one(setting, params, images, trigger):
    del images
    trusted = setting.trusted
    overlays = trusted.images[jax.random.permutation(key, len(trusted.images))[: options.overlays]]
    clean = trusted.test_images[: options.strip_images]
    both = jnp.concatenate([clean, stamp(clean, trigger, setting.mask)])
    entropy = strip.entropies(lambda x: setting.network.forward(params, x)[0], both, overlays, options.blend)
    return entropy[: len(clean)], entropy[len(clean) :]

  run = _lanes(setting, one)

  def over(attacked):
    benign, triggered = run(attacked)
    limits = np.asarray([strip.threshold(lane) for lane in benign])
    both = [detection(-t, -b) for t, b in zip(triggered, benign, strict=True)]
    auroc, tpr = np.mean(both, axis=0)
    far = np.mean([strip.false_acceptance(t, limit) for t, limit in zip(triggered, limits, strict=True)])
    frr = np.mean([strip.false_rejection(b, limit) for b, limit in zip(benign, limits, strict=True)])
    return Outcome(
      'input',
      -triggered,
      -benign,
      float(auroc),
      float(tpr),
      float(1.0 - far),
      float(frr),
      details={'clean': benign, 'triggered': triggered, 'threshold': limits},
    )

  return over


def _before_victim(
  setting: _Setting, change: Callable[[_Setting, jax.Array], jax.Array]
) -> Callable[[Attacked], Outcome]:
  def one(setting, params, images, trigger):
    del images
    return setting.rates(params, lambda x: x, trigger), setting.rates(params, partial(change, setting), trigger)

  run = _lanes(setting, one)
  return lambda attacked: _changed('input', *run(attacked))


def _denoised_inputs(setting: _Setting, variables: dict) -> Callable[[Attacked], Outcome]:
  return _before_victim(setting, lambda given, x: given.normalise(denoiser.purify(variables, given.pixels(x))))


def _median(setting: _Setting) -> Callable[[Attacked], Outcome]:
  return _before_victim(setting, lambda given, x: input_transform.median_filter(x))


def _shrink(setting: _Setting, key: jax.Array) -> Callable[[Attacked], Outcome]:
  black = setting.normalise(jnp.zeros_like(setting.trusted.mean))
  return _before_victim(setting, lambda given, x: input_transform.shrink_and_pad(x, key, black))


def _denoised_set(
  setting: _Setting, variables: dict, retrain: Callable, labels: jax.Array, key: jax.Array
) -> Callable[[Attacked], Outcome]:
  suspects = (labels == setting.target)[:, None, None, None]

  def one(setting, params, images, trigger):
    purified = setting.normalise(denoiser.purify(variables, setting.pixels(images)))
    fresh = retrain(jnp.where(suspects, purified, images), labels, key)
    return setting.rates(params, lambda x: x, trigger), setting.rates(fresh, lambda x: x, trigger)

  run = _lanes(setting, one)
  return lambda attacked: _changed('input', *run(attacked))


def _features(setting: _Setting, params: Any, images: jax.Array) -> jax.Array:
  """Distilled features [classes, images per class, units], by class."""
  features = setting.network.forward(params, images)[1]
  return features[jnp.asarray(setting.rows)]


def _per_image(setting: _Setting, scores: np.ndarray, **rest: Any) -> Outcome:
  """Outcome of per-image scores [lanes, classes, images per class]: the target's class against the others."""
  suspects, others = scores[:, setting.target], _others(np.moveaxis(scores, 1, -1), setting.target)
  auroc, tpr = np.mean([detection(s, o) for s, o in zip(suspects, others, strict=True)], axis=0)
  details = {'scores': scores, **rest.pop('details', {})}
  return Outcome('dataset', suspects, others, float(auroc), float(tpr), details=details, **rest)


def _spectral(setting: _Setting) -> Callable[[Attacked], Outcome]:
  def one(setting, params, images, trigger):
    del trigger
    features = _features(setting, params, images)
    scores = jax.vmap(spectral.spectral_scores)(features)
    return scores, jax.vmap(lambda s: spectral.removed(s, setting.options.ratio))(scores)

  run = _lanes(setting, one)

  def over(attacked):
    scores, removed = run(attacked)
    return _per_image(setting, scores, details={'removed': removed})

  return over


def _spectre(setting: _Setting) -> Callable[[Attacked], Outcome]:
  def one(setting, params, images, trigger):
    del trigger
    trusted = setting.trusted
    clean = setting.network.forward(params, trusted.images)[1]
    features = _features(setting, params, images)
    size = min(setting.options.dimensions, features.shape[1] - 1)

    def of_class(args):
      rows, label = args
      # The covariance of a class is that of its own trusted images about their mean.
      weights = (trusted.labels == label).astype(clean.dtype)[:, None]
      mean = jnp.sum(weights * clean, axis=0) / jnp.maximum(weights.sum(), 1.0)
      spread = jnp.where(weights > 0, clean - mean, 0.0) * jnp.sqrt(len(clean) / jnp.maximum(weights.sum(), 1.0))
      return spectre.que_scores(spectre.whiten(rows - mean, spread, size, 1e-2))

    return jax.lax.map(of_class, (features, jnp.arange(setting.classes)))

  run = _lanes(setting, one)
  return lambda attacked: _per_image(setting, run(attacked))


def _scan(setting: _Setting, key: jax.Array) -> Callable[[Attacked], Outcome]:
  start = jax.random.uniform(key, setting.rows.shape)

  def one(setting, params, images, trigger):
    del trigger
    trusted = setting.trusted
    clean = setting.network.forward(params, trusted.images)[1]
    features = _features(setting, params, images)
    # Fewer clean images than units: the leading directions of the clean features carry what can be estimated.
    size = min(clean.shape[1], len(trusted.images) // 4, 32)
    basis = jnp.linalg.svd(clean - clean.mean(axis=0), full_matrices=False)[2][:size].T
    covariances = scan.decompose(clean @ basis, trusted.labels, setting.classes, ridge=1e-3)
    return scan.scan_scores(features @ basis, covariances, start)

  run = _lanes(setting, one)

  def over(attacked):
    ratios, index, members = run(attacked)
    flagged = index > scan.LIMIT
    return _per_image(
      setting,
      np.repeat(index[:, :, None], members.shape[2], axis=2),
      flagged=float(flagged[:, setting.target].mean()),
      false_flags=float(_others(flagged, setting.target).mean()),
      details={'ratio': ratios, 'index': index},
    )

  return over


def _clustering(setting: _Setting) -> Callable[[Attacked], Outcome]:
  def one(setting, params, images, trigger):
    del trigger
    return _features(setting, params, images)

  run = _lanes(setting, one)

  def over(attacked):
    if setting.rows.shape[1] < 3:
      return Outcome('dataset', np.zeros(0), np.zeros(0))
    clusters = [[activation_clustering.cluster(rows) for rows in lane] for lane in run(attacked)]
    flagged = np.asarray([[c.flagged for c in lane] for lane in clusters])
    silhouettes = np.asarray([[c.silhouette for c in lane] for lane in clusters])
    scores = np.repeat(silhouettes[:, :, None], setting.rows.shape[1], axis=2)
    return _per_image(
      setting,
      scores,
      flagged=float(flagged[:, setting.target].mean()),
      false_flags=float(_others(flagged, setting.target).mean()),
      details={'silhouettes': silhouettes, 'shares': np.asarray([[c.share for c in lane] for lane in clusters])},
    )

  return over
