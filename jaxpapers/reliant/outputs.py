"""A teacher of whom only the outputs are at hand, from the authors' files."""

import os
import tempfile
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxpapers.engine import TrainState
from jaxpapers.engine.errors import UserError
from jaxpapers.engine.weight_files import read_weights
from jaxpapers.reliant.model import Model, Output
from jaxpapers.reliant.selection import first_best
from jaxpapers.reliant.training import Training

# CPF rounds probabilities to 4 decimals; a zero among them must have a logarithm.
_LEAST = 1e-12


class TeacherOutputs(NamedTuple):
  """What a teacher said of every node, float32.

  Attributes:
    logits: [N, C]; logarithms of the probabilities where the file holds those.
    embedding: [N, H]; None where the file has none.
  """

  logits: np.ndarray
  embedding: np.ndarray | None


def read_outputs(path: str, nodes: int, classes: int, *, need_embedding: bool = False) -> TeacherOutputs:
  """Outputs of a teacher by the authors' programs.

  Args:
    path: CPF's `output.txt` (a row of C probabilities per node) or `preds.txt` (a class per node), or GraphAKD's
      `<dataset>_<teacher>.pth.tar` with 'logits' and 'embedding' (read where torch is installed) or an npz of the same.
    nodes: N of the graph.
    classes: C.
    need_embedding: GraphAKD's students do.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: for a file of another form, size or without what is needed.
  """
  if not os.path.isfile(path):
    raise FileNotFoundError(f'There is no file {path!r} of teacher outputs (config.teacher_outputs).')
  found = _text(path, classes) if path.endswith('.txt') else _archive(path)
  for name, values in _present(found).items():
    if values.ndim != 2 or len(values) != nodes:
      raise ValueError(f'{path}: {name} of shape {values.shape} must have a row for each of the {nodes} nodes.')
    if not np.isfinite(values).all():
      raise ValueError(f'{path}: {name} of node {np.argwhere(~np.isfinite(values))[0][0]} holds no finite number.')
  if found.logits.shape[1] != classes:
    raise ValueError(f'{path} has {found.logits.shape[1]} columns, but there are {classes} classes.')
  if need_embedding and found.embedding is None:
    raise ValueError(
      f'{path} has no embedding, which GraphAKD compares: use its .pth.tar file, or config.framework=cpf.'
    )
  return found


def _text(path: str, classes: int) -> TeacherOutputs:
  try:
    values = np.loadtxt(path, ndmin=2)
  except ValueError as error:
    raise ValueError(f'{path} must hold numbers, a row per node: {error}.') from None
  if values.shape[1] == 1:
    wrong = ~np.isin(values[:, 0], np.arange(classes))
    if wrong.any():
      row = np.flatnonzero(wrong)[0]
      raise ValueError(f'{path}, row {row + 1}: {values[row, 0]:g} is no class of 0..{classes - 1}.')
    values = np.eye(classes)[values[:, 0].astype(int)]
  # A NaN passes no comparison.
  wrong = ~((values >= 0.0).all(axis=1) & (np.abs(values.sum(axis=1) - 1.0) < 1e-3))
  if wrong.any():
    row = np.flatnonzero(wrong)[0]
    raise ValueError(f'{path}, row {row + 1}: {values[row].tolist()} are no probabilities that add up to 1.')
  logits = np.log(np.maximum(values, _LEAST)).astype(np.float32)
  return TeacherOutputs(logits, None)


def _archive(path: str) -> TeacherOutputs:
  with tempfile.TemporaryDirectory() as folder:
    link = path
    if path.endswith('.tar'):
      # The reader of weights goes by the ending, and torch's archives have no own one.
      link = os.path.join(folder, 'outputs.pth')
      os.symlink(os.path.abspath(path), link)
    try:
      state = read_weights(link)
    except UserError as error:
      raise ValueError(str(error).replace(link, path)) from error
  if 'logits' not in state:
    raise ValueError(f'{path} must hold logits, and for GraphAKD embedding; it has {", ".join(state) or "nothing"}.')
  arrays = {name: np.asarray(state[name], np.float32) for name in TeacherOutputs._fields if name in state}
  return TeacherOutputs(**{'embedding': None, **arrays})


def _present(outputs: TeacherOutputs) -> dict[str, np.ndarray]:
  return {name: values for name, values in outputs._asdict().items() if values is not None}


def as_model(outputs: TeacherOutputs) -> Model:
  """A model whose parameters are its outputs; it looks nodes up by their 'id', so that samples work too.

  Its embedding is the given one, or else the logits.
  """

  def init(key, features, classes, nodes):
    del key, features, classes, nodes
    return {name: jnp.asarray(values) for name, values in _present(outputs).items()}

  def apply(params, graph, key=None):
    del key
    ids = graph.nodes['id']
    return Output(params['logits'][ids], params.get('embedding', params['logits'])[ids])

  return Model(init, apply)


def untrained(model: Model) -> Training:
  """A training that leaves a model of `as_model` as it is."""

  def init(key, problem, targets=None):
    del problem, targets
    params = model.init(key, 0, 0, 0)
    best = first_best({name: jnp.copy(values) for name, values in params.items()})
    return TrainState(jnp.zeros((), jnp.int32), params, {'best': best}, (), None)

  def epoch(state, problem, key, knobs=None):
    del problem, key, knobs
    return state.replace(step=state.step + 1), {}

  return Training(init, epoch)
