"""The default network as `LlamaForCausalLM` of Hugging Face transformers: a training step, an evaluation, writing."""

from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import numpy as np

from jaxpapers.drums import benchmarks
from jaxpapers.drums.architecture import Architecture
from jaxpapers.drums.experiment import configured_architecture, experiment
from jaxpapers.engine.errors import UserError
from jaxpapers.engine.measure import Measurement, median_seconds


def transformers_peer(config: ml_collections.ConfigDict, *, repeats: int, threads: int) -> list[Measurement]:
  """Eager PyTorch, float32: one AdamW step and one evaluation batch of the last stage, and `generate` with its cache.

  Batches are those of the stage; what is written has the size of `benchmarks`.

  Args:
    config: the room's settings; a Llama all of whose weights are trained.
    repeats: timed calls.
    threads: of PyTorch; 0 leaves its default.

  Raises:
    UserError: if torch or transformers is not installed, or for settings of another network.
  """
  torch, _ = libraries()
  if config.model.family != 'llama' or config.model.name != 'bytes' or config.lora.rank or config.transfer.arms:
    raise UserError(
      '--peer=transformers needs a Llama over bytes all of whose weights are trained: the default is one.'
    )
  if threads:
    torch.set_num_threads(threads)
  stage = experiment(config).stages[-1]
  evaluation = stage.evaluations[0]
  model = causal_llama(configured_architecture(config))
  batch, scored = stage.batch(0), next(iter(evaluation.batches()))
  rows = [
    _timed(
      f'transformers {stage.name} train', training(model, batch), len(batch['ids']), repeats, f'{stage.name} train'
    ),
    _timed(
      f'transformers {stage.name} {evaluation.name}',
      scoring(model, scored),
      len(scored['ids']),
      repeats,
      f'{stage.name} {evaluation.name}',
    ),
  ]
  model, new = causal_llama(benchmarks.NETWORK), benchmarks.NEW
  for count in (1, benchmarks.PROMPTS):
    name = benchmarks.writing_name(count)
    call = writing(model, benchmarks.random_prompts(count), new)
    rows.append(_timed(f'transformers {name}', call, count * new, repeats, name))
  return rows


def causal_llama(architecture: Architecture) -> Any:
  """`LlamaForCausalLM` of the size of `architecture` with random weights, on the GPU if there is one.

  Raises:
    UserError: if torch or transformers is not installed.
  """
  torch, transformers = libraries()
  a = architecture
  config = transformers.LlamaConfig(
    vocab_size=a.vocabulary,
    hidden_size=a.width,
    intermediate_size=a.hidden,
    num_hidden_layers=a.layers,
    num_attention_heads=a.heads,
    num_key_value_heads=a.kv_heads,
    max_position_embeddings=a.context,
    rms_norm_eps=a.epsilon,
    tie_word_embeddings=a.tied,
    # No byte ends a text, so that all of it is written.
    bos_token_id=None,
    eos_token_id=None,
  )
  return transformers.LlamaForCausalLM(config).to('cuda' if torch.cuda.is_available() else 'cpu')


def training(model: Any, batch: Mapping[str, np.ndarray]) -> Callable[[], float]:
  """A call that makes one step on `batch` as `training.language_training` does, and returns its loss."""
  torch, _ = libraries()
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05)
  ids, weights = _tensors(model, batch)

  def call() -> float:
    model.train()
    optimizer.zero_grad(set_to_none=True)
    loss = (_nats(model, ids) * weights).sum() / weights.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()

  return call


def scoring(model: Any, batch: Mapping[str, np.ndarray]) -> Callable[[], np.ndarray]:
  """A call that returns the weighted nats of every text of `batch`, [texts]."""
  torch, _ = libraries()
  ids, weights = _tensors(model, batch)

  def call() -> np.ndarray:
    model.eval()
    with torch.inference_mode():
      return (_nats(model, ids) * weights).sum(1).cpu().numpy()

  return call


def writing(model: Any, prompts: np.ndarray, new: int) -> Callable[[], np.ndarray]:
  """A call that returns the `new` likeliest tokens after each of `prompts` [prompts, time], [prompts, new]."""
  torch, _ = libraries()
  ids = torch.from_numpy(prompts).long().to(model.device)
  options = {'max_new_tokens': new, 'do_sample': False, 'use_cache': True, 'pad_token_id': 0}

  def call() -> np.ndarray:
    model.eval()
    with torch.inference_mode():
      return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[:, ids.shape[1] :].cpu().numpy()

  return call


def libraries() -> tuple[Any, Any]:
  """(torch, transformers).

  Raises:
    UserError: if one is not installed.
  """
  try:
    import torch
    import transformers
  except ImportError as error:
    raise UserError('--peer=transformers needs PyTorch and transformers: pip install -e ".[bench]".') from error
  return torch, transformers


def _tensors(model: Any, batch: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
  torch, _ = libraries()
  ids, weights = (torch.from_numpy(np.array(batch[name])).to(model.device) for name in ('ids', 'weights'))
  return ids.long(), weights


def _nats(model: Any, ids: Any) -> Any:
  """[texts, time - 1] losses of every token but the first."""
  torch, _ = libraries()
  logits = model(ids, use_cache=False).logits[:, :-1]
  return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction='none')


def _timed(name: str, call: Callable[[], Any], examples: int, repeats: int, beside: str) -> Measurement:
  return Measurement(name, examples, median_seconds(call, repeats), beside=beside)
