"""One epoch of a teacher, of CPF and of GraphAKD with RELIANT: pure functions.

RELIANT alternates. The student's step sees the mean proxies and lowers distance and gap; then the proxies' step, with
the updated student, raises the gap of the individual proxies. No gradient of the one objective with respect to the
other's variables is ever formed.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import optax

from jaxpapers.engine import TrainState
from jaxpapers.reliant import akd, losses
from jaxpapers.reliant.fairness import gap
from jaxpapers.reliant.model import Model, Output, Params
from jaxpapers.reliant.problem import Problem
from jaxpapers.reliant.proxies import add_proxies, fixed_proxies, initial_proxies, input_width
from jaxpapers.reliant.selection import Selection, first_best, validate

Metrics = dict[str, jax.Array]


class Knobs(NamedTuple):
  """What may differ between trainings of one program.

  Attributes:
    alpha: weight of the gap.
    metric: int32, row of the problem's contrasts.
  """

  alpha: jax.Array
  metric: jax.Array


class Training(NamedTuple):
  """A pair of pure functions.

  Attributes:
    init: (key, problem, targets) -> state.
    epoch: (state, problem, key, knobs) -> (state, metrics).
  """

  init: Callable[..., TrainState]
  epoch: Callable[..., tuple[TrainState, Metrics]]


def coupled_adam(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
  """Adam with L2 added to the gradient before the moments, as PyTorch's `Adam(weight_decay=...)`.

  Source: the authors' optimizer.
  """
  return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate))


def teacher_training(
  model: Model, optimizer: optax.GradientTransformation, *, classes: int, nodes: int, selection: Selection
) -> Training:
  """Supervised training on the training nodes; state.params are the model's. Source: the authors' code."""

  def init(key, problem, targets=None):
    del targets
    params = model.init(key, problem.graph.nodes['x'].shape[1], classes, nodes)
    best = first_best(jax.tree.map(jnp.copy, params))
    return TrainState(jnp.zeros((), jnp.int32), params, {'best': best}, optimizer.init(params), None)

  def epoch(state, problem, key, knobs=None):
    del knobs

    def objective(params):
      logits = model.apply(params, problem.graph, key).logits
      return losses.negative_log_likelihood(logits, problem.labels, problem.train)

    loss, grads = jax.value_and_grad(objective)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    done = state.step + 1
    metrics, best = validate(model, params, problem.graph, problem, state.model_state['best'], params, selection, done)
    return TrainState(done, params, {'best': best}, opt_state, None), {'loss': loss, **metrics}

  return Training(init, epoch)


class Targets(NamedTuple):
  """The teacher's output on every node; None what a framework does not need.

  Attributes:
    probabilities: [N, C], rounded to 4 decimals as CPF stores them.
    log_probabilities: [N, C].
    embedding: [N, H].
  """

  probabilities: jax.Array | None
  log_probabilities: jax.Array | None
  embedding: jax.Array | None


def targets_of(output: Output) -> Targets:
  """Targets from a teacher's output in evaluation mode. Source: the authors' code."""
  log_probabilities = jax.nn.log_softmax(output.logits)
  probabilities = jnp.round(jnp.exp(log_probabilities), 4)
  return Targets(probabilities, log_probabilities, output.embedding)


ReadTargets = Callable[[Any, jraph.GraphsTuple], Targets]


def as_stored(targets: Targets, graph: jraph.GraphsTuple) -> Targets:
  """Full-batch training stores the teacher's output once."""
  del graph
  return targets


def by_teacher(model: Model) -> ReadTargets:
  """For minibatches: what is stored are the teacher's parameters, and it is asked about every sample."""

  def read(params, graph):
    return jax.lax.stop_gradient(targets_of(model.apply(params, graph, None)))

  return read


class Input(NamedTuple):
  """How proxies enter the student; see `proxies`."""

  kind: str = 'learned'
  columns: str = 'append'

  def individual(self, graph: jraph.GraphsTuple, proxies: jax.Array) -> jraph.GraphsTuple:
    """The graph with every node's own proxies; `proxies` [all nodes, 2]."""
    return add_proxies(graph, proxies[graph.nodes['id']], self.columns)

  def mean(self, graph: jraph.GraphsTuple, params: Params) -> jraph.GraphsTuple:
    """The graph with the mean row at every node; without proxies the graph itself."""
    if self.kind == 'none':
      return graph
    rows = jnp.broadcast_to(params['proxy'].mean(axis=0), (graph.nodes['x'].shape[0], 2))
    return add_proxies(graph, rows, self.columns)


def student_outputs(model: Model, inputs: Input, params: Params, graph: jraph.GraphsTuple) -> Output:
  """Inference: evaluation mode, proxies removed by their mean. `params` is {'student', 'proxy'} or {'student'}.

  Source: RELIANT's inference.
  """
  return model.apply(params['student'], inputs.mean(graph, params), None)


def cpf_training(
  model: Model,
  optimizer: optax.GradientTransformation,
  *,
  classes: int,
  nodes: int,
  inputs: Input,
  selection: Selection,
  distance: str = 'frobenius',
  step: str = 'official',
  read_targets: ReadTargets = as_stored,
) -> Training:
  """CPF's distillation with RELIANT: state.params are {'student', 'proxy' [nodes, 2]} (no 'proxy' for kind 'none').

  Source: RELIANT's objectives over CPF (Yang et al., WWW 2021), as in the authors' code.

  Args:
    model: the student.
    optimizer: makes the two optimizers.
    classes: C.
    nodes: of the whole graph; a problem may be a sample of it.
    inputs: kind and place of the proxies. 'none' is vanilla distillation without gap. 'fixed' has the
      proxies [s, 1 - s], 'frozen' random ones; neither learns them, which leaves the penalty alone.
    selection: of the best epoch.
    distance: see `losses.distance`; over all but training nodes.
    step: see `fairness.soft_step`.
    read_targets: (what `init` was given, graph) -> Targets of its nodes.
  """
  learned = inputs.kind == 'learned'

  def init(key, problem, targets):
    params = _initial(model, key, problem, classes, nodes, inputs)
    opt_state = {'student': optimizer.init(params['student'])}
    if learned:
      opt_state['proxy'] = optimizer.init(params['proxy'])
    model_state = {'best': first_best(jax.tree.map(jnp.copy, params)), 'targets': targets}
    return TrainState(jnp.zeros((), jnp.int32), params, model_state, opt_state, None)

  def epoch(state, problem, key, knobs):
    student_key, proxy_key = jax.random.split(key)
    params, kept = state.params, state.model_state['targets']
    teacher = read_targets(kept, problem.graph)
    mask = problem.real * (1.0 - problem.train)
    graph = inputs.mean(problem.graph, params)

    def objective(student):
      logits = model.apply(student, graph, student_key).logits
      far = losses.distance(distance, logits, teacher.probabilities, mask)
      if inputs.kind == 'none':
        return far, {'distance': far}
      unfair = gap(jax.nn.softmax(logits), problem.student_contrast[knobs.metric], step)
      return far + knobs.alpha * unfair, {'distance': far, 'gap_mean': unfair}

    (loss, metrics), grads = jax.value_and_grad(objective, has_aux=True)(params['student'])
    params, opt_state = _student_update(optimizer, grads, params, state.opt_state)
    if learned:
      params, opt_state, unfair = _proxy_update(
        model, optimizer, inputs, params, opt_state, problem, proxy_key, knobs, step
      )
      metrics['gap_individual'] = unfair
    done = state.step + 1
    judged, best = validate(
      model,
      params['student'],
      inputs.mean(problem.graph, params),
      problem,
      state.model_state['best'],
      params,
      selection,
      done,
    )
    model_state = {'best': best, 'targets': kept}
    return TrainState(done, params, model_state, opt_state, None), {'loss': loss, **metrics, **judged}

  return Training(init, epoch)


def akd_training(
  model: Model,
  student_optimizer: optax.GradientTransformation,
  other_optimizer: optax.GradientTransformation,
  *,
  classes: int,
  nodes: int,
  inputs: Input,
  selection: Selection,
  step: str = 'official',
  read_targets: ReadTargets = as_stored,
) -> Training:
  """GraphAKD with RELIANT: params are {'student', 'discriminators', 'proxy'}.

  One forward pass serves discriminators and student; discriminators step first, and the student meets them updated.

  Source: RELIANT's objectives over GraphAKD (He et al., KDD 2022), as in the authors' code.

  Args:
    model: the student; its embedding must be as wide as the teacher's.
    student_optimizer: of the student.
    other_optimizer: of discriminators and proxies, each with a state of its own.
    classes: C.
    nodes: of the whole graph.
    inputs: as in `cpf_training`.
    selection: of the best epoch.
    step: see `fairness.soft_step`.
    read_targets: (what `init` was given, graph) -> Targets of its nodes.
  """
  learned = inputs.kind == 'learned'

  def init(key, problem, targets):
    student_key, other_key = jax.random.split(key)
    params = _initial(model, student_key, problem, classes, nodes, inputs)
    width = jax.eval_shape(read_targets, targets, problem.graph).embedding.shape[-1]
    output = jax.eval_shape(lambda p: student_outputs(model, inputs, p, problem.graph), params)
    if output.embedding.shape[-1] != width:
      raise ValueError(
        f'The student embeds in {output.embedding.shape[-1]} dimensions, its teacher in {width}: GraphAKD compares '
        f'them, so set the width of the student to {width}.'
      )
    discriminators = akd.init_discriminators(other_key, width, classes)
    opt_state = {
      'student': student_optimizer.init(params['student']),
      'discriminators': other_optimizer.init(discriminators),
    }
    if learned:
      opt_state['proxy'] = other_optimizer.init(params['proxy'])
    best = first_best(jax.tree.map(jnp.copy, params))
    params = {**params, 'discriminators': discriminators}
    return TrainState(jnp.zeros((), jnp.int32), params, {'best': best, 'targets': targets}, opt_state, None)

  def epoch(state, problem, key, knobs):
    student_key, proxy_key = jax.random.split(key)
    params, kept = state.params, state.model_state['targets']
    targets = read_targets(kept, problem.graph)
    teacher = akd.Judged(targets.log_probabilities, targets.embedding)
    nodes_seen = akd.Nodes(problem.labels, problem.train, problem.real, problem.real_edges)
    graph = inputs.mean(problem.graph, params)
    output, pull = jax.vjp(lambda student: model.apply(student, graph, student_key), params['student'])
    judge_loss, judge_grads = jax.value_and_grad(akd.discriminator_loss)(
      params['discriminators'], problem.graph, teacher, output, nodes_seen
    )
    updates, judge_state = other_optimizer.update(
      judge_grads, state.opt_state['discriminators'], params['discriminators']
    )
    discriminators = optax.apply_updates(params['discriminators'], updates)

    def objective(output):
      value = akd.student_loss(discriminators, problem.graph, teacher, output, nodes_seen)
      if inputs.kind == 'none':
        return value, {'distance': value}
      unfair = gap(jax.nn.softmax(output.logits), problem.student_contrast[knobs.metric], step)
      return value + knobs.alpha * unfair, {'distance': value, 'gap_mean': unfair}

    (loss, metrics), output_grads = jax.value_and_grad(objective, has_aux=True)(output)
    (grads,) = pull(output_grads)
    params, opt_state = _student_update(student_optimizer, grads, params, state.opt_state)
    params, opt_state = {**params, 'discriminators': discriminators}, {**opt_state, 'discriminators': judge_state}
    metrics['discriminator_loss'] = judge_loss
    if learned:
      params, opt_state, unfair = _proxy_update(
        model, other_optimizer, inputs, params, opt_state, problem, proxy_key, knobs, step
      )
      metrics['gap_individual'] = unfair
    done = state.step + 1
    judged, best = validate(
      model,
      params['student'],
      inputs.mean(problem.graph, params),
      problem,
      state.model_state['best'],
      {name: params[name] for name in params if name != 'discriminators'},
      selection,
      done,
    )
    model_state = {'best': best, 'targets': kept}
    return TrainState(done, params, model_state, opt_state, None), {'loss': loss, **metrics, **judged}

  return Training(init, epoch)


def _initial(model: Model, key, problem: Problem, classes: int, nodes: int, inputs: Input) -> Params:
  """Weights and proxies before training."""
  student_key, proxy_key = jax.random.split(key)
  width = input_width(problem.graph.nodes['x'].shape[1], inputs.kind, inputs.columns)
  params = {'student': model.init(student_key, width, classes, nodes)}
  if inputs.kind == 'fixed':
    params['proxy'] = fixed_proxies(problem.sensitive)
  elif inputs.kind != 'none':
    params['proxy'] = initial_proxies(proxy_key, nodes)
  return params


def _student_update(optimizer, grads, params, opt_state) -> tuple[Params, Any]:
  updates, student_state = optimizer.update(grads, opt_state['student'], params['student'])
  student = optax.apply_updates(params['student'], updates)
  return {**params, 'student': student}, {**opt_state, 'student': student_state}


def _proxy_update(model, optimizer, inputs, params, opt_state, problem, key, knobs, step):
  """Third objective: the proxies, not the student, move to make the gap large."""

  def objective(proxies):
    graph = inputs.individual(problem.graph, proxies)
    logits = model.apply(params['student'], graph, key).logits
    unfair = gap(jax.nn.softmax(logits), problem.proxy_contrast[knobs.metric], step)
    return -knobs.alpha * unfair, unfair

  grads, unfair = jax.grad(objective, has_aux=True)(params['proxy'])
  updates, proxy_state = optimizer.update(grads, opt_state['proxy'], params['proxy'])
  params = {**params, 'proxy': optax.apply_updates(params['proxy'], updates)}
  return params, {**opt_state, 'proxy': proxy_state}, unfair


def repeated(epoch: Callable[..., tuple[TrainState, Metrics]], count: int) -> Callable[..., tuple[TrainState, Metrics]]:
  """`count` epochs in one call, each with a key of its own.

  Metrics are means over them, as dropout makes those of one epoch noisy; of validation, those of the last.
  """

  @functools.wraps(epoch)
  def run(state, problem, key, knobs=None):
    def body(state, index):
      return epoch(state, problem, jax.random.fold_in(key, index), knobs)

    state, metrics = jax.lax.scan(body, state, jnp.arange(count))
    return state, {name: x[-1] if name.startswith('val_') else x.mean() for name, x in metrics.items()}

  return run
