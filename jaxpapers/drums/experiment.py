"""Binds the settings of configs/drums.py to functions. The only file of the room that reads the config."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxpapers import engine
from jaxpapers.data import ArraySource, batches
from jaxpapers.drums import architecture, data, gguf, official, report, text, transfer, windows
from jaxpapers.drums.architecture import Architecture
from jaxpapers.drums.model import Decoder
from jaxpapers.drums.tokenizers import Tokenizer, byte_tokenizer, gpt2_tokenizer
from jaxpapers.drums.training import Network, adamw, continued, language_training, nats_evaluation
from jaxpapers.drums.windows import Examples


class Model(NamedTuple):
  """What a config names.

  Attributes:
    architecture: of the decoder.
    tokenizer: its vocabulary.
    params: to start from, or None.
  """

  architecture: Architecture
  tokenizer: Tokenizer
  params: Any


class LoadedModel(NamedTuple):
  """A trained model, ready to write grooves (see `generation.continue_texts`).

  Attributes:
    decoder: the model.
    variables: its collections.
    tokenizer: its vocabulary.
    window: measures that its positions hold, or None where a whole groove fits.
  """

  decoder: Decoder
  variables: dict[str, Any]
  tokenizer: Tokenizer
  window: int | None


def experiment(config: ml_collections.ConfigDict) -> engine.Experiment:
  """The stages of a variant: pre-training on text, fine-tuning and from scratch; or the study of what transfers."""
  try:
    return _experiment(config)
  except ValueError as error:
    raise engine.UserError(str(error)) from error


def import_variables(config: ml_collections.ConfigDict, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Variables from a state dict under Hugging Face's names.

  Raises:
    UserError: if they are not those of the configured model.
  """
  try:
    return official.import_official(state, configured_architecture(config))
  except ValueError as error:
    raise engine.UserError(str(error)) from error


def load_model(workdir: str) -> LoadedModel:
  """The model that a run trained: fine-tuned, else from scratch, else imported.

  Raises:
    UserError: if the workdir has none.
  """
  from jaxpapers.engine.loop import read_config

  config = read_config(workdir)
  try:
    # Weights of the run take the place of those that it started from.
    model = _model(config, weights=bool(config.lora.rank))
    network = _network(config, model, None)
  except ValueError as error:
    raise engine.UserError(str(error)) from error
  variables = engine.load_variables(workdir, prefer=['finetune', 'scratch'])
  return LoadedModel(network.decoder, network.full(variables), model.tokenizer, _window(config, model))


def _experiment(config: ml_collections.ConfigDict) -> engine.Experiment:
  grooves = data.records(data.load(config.data.source, config.data.dir), official=config.data.official)
  model = _model(config)
  grids = {split: [groove.grid for groove in several] for split, several in grooves.items()}
  chosen = grids['train'][: config.data.grooves or None]
  vocabulary = windows.drum_vocabulary(model.tokenizer, grids['train']) if config.restrict else None
  network = _network(config, model, vocabulary)
  stages = _pretraining(config, model, network)
  if config.transfer.arms:
    return _transfer(config, model, network, grids, stages)
  options = config.finetune
  examples = windows.padded(_examples(config, model.tokenizer, chosen), config.data.multiple)
  source = batches(
    ArraySource(examples.arrays()),
    seed=config.seed,
    batch_size=config.data.batch_size,
    workers=config.data.workers,
    prefetch=config.data.prefetch,
  )
  evaluations = _evaluations(config, model, network, grids)
  training = language_training(
    network, _optimizer(config), accumulate=options.accumulate, axis_name=engine.axis_name(config)
  )
  arms = []
  if stages:
    arms.append(('finetune', continued(training, 'pretrain')))
  elif network.base is not None:
    arms.append(('finetune', training))
  elif model.params is not None:
    started = language_training(
      network,
      _optimizer(config),
      start=lambda _: {'params': model.params},
      accumulate=options.accumulate,
      axis_name=engine.axis_name(config),
    )
    arms.append(('finetune', started))
  if config.scratch:
    fresh = language_training(
      network,
      _optimizer(config, config.scratch_rate),
      accumulate=options.accumulate,
      axis_name=engine.axis_name(config),
    )
    arms.append(('scratch', fresh))
  if not arms:
    raise ValueError('Nothing to train: set config.scratch, config.pretrain.steps or a model with weights.')
  stages += [
    engine.Stage(name, options.steps, source, parts.init, parts.step, evaluations, _sharding(config))
    for name, parts in arms
  ]

  def draw(states: Mapping[str, Any], page: engine.Report) -> None:
    # Imported weights are a state of their own.
    known = {name: states[name] for name, _ in arms if name in states} or {'imported': states[arms[0][0]]}
    models = {name: network.full(state.variables()) for name, state in known.items()}
    report.draw(page, models, grooves, _settings(config, model, network))

  return engine.Experiment(stages, draw)


def configured_architecture(config: ml_collections.ConfigDict) -> Architecture:
  """The architecture that `config.model` names.

  Raises:
    ValueError: for an unknown name, or sizes that do not fit each other.
  """
  options = config.model
  if options.name == 'bytes':
    activation = {'gpt2': 'gelu_new', 'llama': 'silu', 'neox': 'gelu'}.get(options.family, '')
    sizes = (options.layers, options.width, options.heads, options.kv_heads, options.hidden, options.context)
    return Architecture(options.family, 256, *sizes, activation=activation).check()
  if options.name not in architecture.RELEASED:
    known = ['bytes', *architecture.RELEASED]
    raise ValueError(f'config.model.name={options.name!r} is no known model.{engine.suggest(options.name, known)}')
  return architecture.RELEASED[options.name]


def _model(config: ml_collections.ConfigDict, weights: bool = True) -> Model:
  """The model of the config; its starting weights are left out unless `weights`."""
  if config.model.name == 'bytes':
    return _started(config, Model(configured_architecture(config), byte_tokenizer(), None), weights)
  if config.model.name == 'smollm2-135m':
    if config.init_from or not weights:
      file = gguf.open_gguf(config.model.weights or gguf.package_path())
      model = Model(gguf.llama_architecture(file), gguf.gguf_tokenizer(file.metadata), None)
      return _started(config, model, weights)
    found = gguf.language_model(config.model.weights)
    return Model(found.architecture, found.tokenizer, found.variables['params'])
  shape = configured_architecture(config)
  if shape.family != 'gpt2':
    raise ValueError(f'No tokenizer of {config.model.name} is at hand: import its weights and call the functions.')
  if not config.init_from and weights:
    raise ValueError(
      f'{config.model.name} needs its released weights: python launch/import_weights.py '
      f'--config=configs/drums.py:{config.variant} --weights=model.safetensors --workdir=RUN, then '
      '--config.init_from=RUN.'
    )
  return _started(config, Model(shape, gpt2_tokenizer(), None), weights)


def _started(config: ml_collections.ConfigDict, model: Model, weights: bool) -> Model:
  """The model with the weights of `config.init_from`, if any."""
  if not config.init_from or not weights:
    return model
  loaded = engine.load_variables(config.init_from, prefer=['finetune', 'scratch', 'pretrain'])
  template = official.parameter_shapes(model.architecture)
  merged = engine.merge_variables({'params': template}, {'params': loaded['params']})
  return model._replace(params=merged['params'])


def _network(config: ml_collections.ConfigDict, model: Model, vocabulary: np.ndarray | None) -> Network:
  rank, options = config.lora.rank, config.model
  decoder = Decoder(
    model.architecture,
    dtype=config.dtype,
    dropout=options.dropout,
    lora_scale=config.lora.alpha / max(rank, 1),
    remat=options.remat,
  )
  if not rank:
    return Network(decoder, vocabulary)
  if model.params is None:
    raise ValueError('config.lora.rank needs weights to add to: name a model that has some, or config.init_from.')
  # On the host, for they become constants of the programs; in the precision that the model computes in, so that none is
  # converted there.
  base = jax.tree.map(lambda x: np.asarray(x, jnp.dtype(config.dtype)), model.params)
  return Network(decoder, vocabulary, base, rank, config.lora.targets)


def _window(config: ml_collections.ConfigDict, model: Model) -> int | None:
  """Measures that generation sees, where sixteen do not fit into the positions."""
  longest = 16 * 116 if model.tokenizer.name == 'bytes' else 1256
  return config.data.window or None if model.architecture.context < longest else None


def _optimizer(config: ml_collections.ConfigDict, rate: float = 0.0) -> Any:
  options = config.finetune
  return adamw(rate or options.rate, options.steps, warmup=options.warmup, weight_decay=options.weight_decay)


def _sharding(config: ml_collections.ConfigDict) -> Sequence[tuple[str, Any]]:
  return [('.*', engine.FSDP)] if config.mesh.fsdp else ()


def _examples(config: ml_collections.ConfigDict, tokenizer: Tokenizer, grids: Sequence[np.ndarray]) -> Examples:
  options = config.data
  if options.window:
    return windows.training_windows(grids, tokenizer, options.window, options.prompt_weight)
  return windows.whole_grooves(grids, tokenizer, options.prompt_weight)


def _pretraining(config: ml_collections.ConfigDict, model: Model, network: Network) -> list[engine.Stage]:
  """Stage `pretrain`, and `pretrain_shuffled` on the same words in another order where an arm wants it."""
  options = config.pretrain
  if not options.steps:
    return []
  if network.base is not None or model.params is not None:
    raise ValueError('config.pretrain.steps is for a network without weights.')
  words = text.documentation()
  texts = {'pretrain': words}
  if 'shuffled_text' in config.transfer.arms:
    texts['pretrain_shuffled'] = text.shuffle_words(words, config.seed)
  plain = Network(network.decoder)
  optimizer = adamw(options.rate, options.steps, warmup=config.finetune.warmup, weight_decay=0.05)
  training = language_training(plain, optimizer, axis_name=engine.axis_name(config))
  stages = []
  for name, content in texts.items():
    examples = windows.text_windows(content, model.tokenizer, min(model.architecture.context, 464))
    source = batches(ArraySource(examples.arrays()), seed=config.seed, batch_size=options.batch_size)
    stages.append(engine.Stage(name, options.steps, source, training.init, training.step, (), _sharding(config)))
  return stages


def _evaluations(
  config: ml_collections.ConfigDict, model: Model, network: Network, grids: Mapping[str, list[np.ndarray]]
) -> list[engine.Evaluation]:
  size, multiple = config.data.eval_batch_size, config.data.multiple
  evaluations = []
  for split, every in (('dev', config.eval_every), ('test', 0)):
    scored = windows.padded(windows.scored_windows(grids[split], model.tokenizer), multiple)
    evaluations.append(nats_evaluation(split, scored, network, size, every))
  if config.whole_completions:
    window = _window(config, model) or config.data.window
    for split in ('dev', 'test'):
      if window:
        whole = windows.completion_windows(grids[split], model.tokenizer, window)
      else:
        whole = windows.whole_grooves(grids[split], model.tokenizer, prompt_weight=0.0)
      whole = windows.padded(whole, multiple)
      evaluations.append(nats_evaluation(f'{split}_completions', whole, network, size))
  return evaluations


def _settings(config: ml_collections.ConfigDict, model: Model, network: Network) -> report.Settings:
  options = config.samples
  return report.Settings(
    network.decoder,
    model.tokenizer,
    _window(config, model),
    config.seed,
    options.grooves,
    options.temperature,
    options.top_k or None,
    options.top_p,
    options.shown,
  )


def _transfer(
  config: ml_collections.ConfigDict,
  model: Model,
  network: Network,
  grids: Mapping[str, list[np.ndarray]],
  stages: list[engine.Stage],
) -> engine.Experiment:
  options, steps = config.transfer, config.finetune.steps
  runs = transfer.plan(options.arms, options.sizes, options.seeds)
  if network.base is not None:
    raise ValueError('The study trains all weights: config.lora.rank must be 0.')
  if not stages and model.params is None and set(options.arms) != {'scratch'}:
    raise ValueError('These arms need a pre-trained model: set config.pretrain.steps, or name a model with weights.')
  if 'shuffled_text' in options.arms and not stages:
    raise ValueError("The arm 'shuffled_text' needs config.pretrain.steps: there is no such model to download.")
  # One shape for all amounts of data.
  longest = windows.padded(_examples(config, model.tokenizer, grids['train']), config.data.multiple).ids.shape[1]

  def chosen(indices: Sequence[int]) -> Examples:
    examples = _examples(config, model.tokenizer, [grids['train'][index] for index in indices])
    return windows.padded(examples, longest)

  def bases(earlier: Mapping[str, Any]) -> dict[str, Any]:
    names = {'pretrained': 'pretrain', 'shuffled_text': 'pretrain_shuffled'}
    found = {arm: earlier[stage].params for arm, stage in names.items() if stage in earlier}
    return found or ({} if model.params is None else {'pretrained': model.params})

  training = transfer.transfer_training(network, _optimizer(config), steps, bases, axis_name=engine.axis_name(config))
  source = transfer.TransferBatches(chosen, runs, steps, config.data.batch_size, len(grids['train']))
  evaluations = [
    nats_evaluation(
      split,
      windows.padded(windows.scored_windows(grids[split], model.tokenizer), config.data.multiple),
      network,
      config.data.eval_batch_size,
      steps,
      lambda state: state.training.variables(),
    )
    for split in ('dev', 'test')
  ]
  stage = engine.Stage('transfer', steps * len(runs), source, training.init, training.step, evaluations)

  def draw(states: Mapping[str, Any], page: engine.Report) -> None:
    del states
    found = {
      split: transfer.outcomes(runs, steps, page.history('transfer', f'{split}/nats_per_line'))
      for split in ('dev', 'test')
    }
    report.draw_transfer(page, found, grids)

  return engine.Experiment([*stages, stage], draw)
