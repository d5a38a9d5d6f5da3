import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import reliant as config_module
from jaxpapers.engine import UserError, measure
from jaxpapers.reliant import experiment, fairness, model, peers, problem, replicas, selection, trace, training
from tests.reliant import toy

KNOBS = training.Knobs(jnp.float32(30.0), jnp.int32(0))
STUDENT = model.plp(6, 4)


@functools.cache
def cpf(kind, columns='append', student=STUDENT):
  """(training, compiled init, compiled epoch) of one kind."""
  trained = training.cpf_training(
    student,
    training.coupled_adam(0.01, 0.01),
    classes=2,
    nodes=toy.NODES,
    inputs=training.Input(kind, columns),
    selection=selection.Selection(),
  )
  return trained, jax.jit(trained.init), jax.jit(trained.epoch)


@functools.cache
def targets():
  labels = toy.arrays()[1]
  log_probabilities = jnp.log(jnp.asarray(np.eye(2)[labels] * 0.8 + 0.1, jnp.float32))
  embedding = jnp.asarray(np.random.default_rng(5).normal(size=(toy.NODES, 6)), jnp.float32)
  return training.Targets(jnp.exp(log_probabilities), log_probabilities, embedding)


def train(kind, epochs, state=None, start=0, knobs=KNOBS, **options):
  _, init, epoch = cpf(kind, **options)
  data = toy.problem()
  if state is None:
    state = init(jax.random.key(0), data, targets())
  for i in range(start, epochs):
    state, metrics = epoch(state, data, jax.random.key(i + 1), knobs)
  return state, metrics


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_stopping_and_going_on_changes_no_bit():
  whole, _ = train('learned', 6)
  half, _ = train('learned', 3)
  again, _ = train('learned', 6, jax.tree.map(np.asarray, half), 3)
  equal(again, whole)
  assert np.ptp(whole.params['proxy']) > 0 and not np.array_equal(whole.params['proxy'], half.params['proxy'])


def test_the_best_epoch_keeps_weights_and_proxies_together():
  state, _ = train('learned', 1)
  seen = [jax.tree.map(np.asarray, (state.params, state.model_state['best']))]
  for i in range(1, 8):
    state, _ = train('learned', i + 1, state, i)
    seen.append(jax.tree.map(np.asarray, (state.params, state.model_state['best'])))
  for _, best in seen:
    equal(best['params'], seen[int(best['epoch']) - 1][0])
  scores = [float(best['score']) for _, best in seen]
  assert scores == sorted(scores)


def test_patience_and_the_three_selections():
  best = selection.first_best({'w': jnp.zeros(())})
  late = selection.Selection('accuracy', 2)
  # The last of ties counts; after two epochs without, nothing does.
  for epoch, accuracy in enumerate((0.5, 0.5, 0.4, 0.4, 0.4, 0.9), 1):
    best = selection.updated_best(best, {'w': jnp.float32(epoch)}, late, jnp.float32(accuracy), 1.0, jnp.int32(epoch))
  assert float(best['params']['w']) == 2
  best = selection.first_best({'w': jnp.zeros(())})
  for epoch, loss in enumerate((3.0, 1.0, 1.0, 2.0), 1):
    args = (selection.Selection('loss'), jnp.float32(0), jnp.float32(loss), jnp.int32(epoch))
    best = selection.updated_best(best, {'w': jnp.float32(epoch)}, *args)
  assert float(best['params']['w']) == 2
  with pytest.raises(ValueError, match='f1'):
    selection.updated_best(best, {'w': 0.0}, selection.Selection('f1'), 0.0, 0.0, jnp.int32(1))


def test_inference_sees_nothing_of_the_proxies_but_their_mean():
  state, _ = train('learned', 2)
  data, inputs = toy.problem(), training.Input('learned', 'append')
  run = jax.jit(lambda p: training.student_outputs(STUDENT, inputs, p, data.graph).logits)
  want = run(state.params)
  order = np.random.default_rng(0).permutation(toy.NODES)
  rows = np.asarray(state.params['proxy'])
  np.testing.assert_allclose(run({**state.params, 'proxy': rows[order]}), want, rtol=1e-5, atol=1e-6)
  other = np.broadcast_to(rows.mean(axis=0), rows.shape)
  np.testing.assert_allclose(run({**state.params, 'proxy': other}), want, rtol=1e-5, atol=1e-6)
  assert not np.allclose(run({**state.params, 'proxy': rows + 1.0}), want, atol=1e-4)


def test_without_weight_and_with_frozen_proxies_it_is_vanilla_distillation():
  knobs = training.Knobs(jnp.float32(0.0), jnp.int32(0))
  frozen, _ = train('frozen', 3, knobs=knobs, columns='replace_last')
  row = np.asarray(frozen.params['proxy']).mean(axis=0)
  _, init, epoch = cpf('none')
  data = toy.problem()
  x = np.concatenate([data.graph.nodes['x'][:, :-2], np.broadcast_to(row, (toy.NODES, 2))], axis=1)
  data = data._replace(graph=data.graph._replace(nodes={**data.graph.nodes, 'x': x}))
  state = init(jax.random.key(0), data, targets())
  for i in range(3):
    state, _ = epoch(state, data, jax.random.key(i + 1), knobs)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    state.params['student'],
    frozen.params['student'],
  )


def test_neither_objective_moves_the_others_variables():
  state, _ = train('learned', 1)
  _, init, epoch = cpf('learned')
  data = toy.problem()
  first = init(jax.random.key(0), data, targets())
  # Proxies of the same mean, individually different: the student's step must not tell them apart.
  shuffled = first.replace(params={**first.params, 'proxy': first.params['proxy'][::-1]})
  other, _ = epoch(shuffled, data, jax.random.key(1), KNOBS)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    other.params['student'],
    state.params['student'],
  )
  assert not np.allclose(other.params['proxy'], state.params['proxy'], atol=1e-3)
  # Without a gap in the proxies' set, they only decay.
  still, _ = epoch(first, data._replace(proxy_contrast=0 * data.proxy_contrast), jax.random.key(1), KNOBS)
  assert (np.asarray(still.params['proxy']) <= np.asarray(first.params['proxy'])).all()
  equal(still.params['student'], state.params['student'])


def test_clamped_nodes_and_frozen_proxies_do_not_move():
  state, _ = train('frozen', 3)
  _, init, _ = cpf('frozen')
  np.testing.assert_array_equal(
    state.params['proxy'], init(jax.random.key(0), toy.problem(), targets()).params['proxy']
  )
  clamped = toy.problem().train == 1
  moved = np.asarray(state.params['student']['lr_alpha']) != 0
  assert not moved[clamped].any() and moved[~clamped].any()


def test_graphakd_lowers_its_losses_and_refuses_other_widths():
  data = toy.problem(framework='akd')
  optimizers = (training.coupled_adam(0.01, 5e-4), training.coupled_adam(0.01, 5e-4))
  options = {
    'classes': 2,
    'nodes': toy.NODES,
    'inputs': training.Input('learned', 'append'),
    'selection': selection.Selection('loss'),
  }
  trained = training.akd_training(model.sgc_student(6, dropout=0.0), *optimizers, **options)
  state = jax.jit(trained.init)(jax.random.key(0), data, targets())
  epochs = jax.jit(training.repeated(trained.epoch, 10))
  _, first = epochs(state, data, jax.random.key(0), KNOBS)
  for i in range(8):
    state, last = epochs(state, data, jax.random.key(i), KNOBS)
  assert last['distance'] < first['distance'] - 0.1
  with pytest.raises(ValueError, match='set the width of the student to 6'):
    wide = training.akd_training(model.sgc_student(7), *optimizers, **options)
    jax.eval_shape(wide.init, jax.random.key(0), data, targets())


def test_a_users_own_student_takes_part():
  def init(key, features, classes, nodes):
    return {'w': 0.1 * jax.random.normal(key, (features, classes))}

  def apply(params, graph, key=None):
    logits = graph.nodes['x'] @ params['w']
    return model.Output(logits, logits)

  state, metrics = train('learned', 2, student=model.Model(init, apply))
  assert state.params['student']['w'].shape == (toy.FEATURES + 2, 2) and np.isfinite(metrics['loss'])


@pytest.mark.parametrize('how', ['map', 'vmap'])
def test_replicas_are_independent_trainings(how):
  trained, init, _ = cpf('learned')
  points = [replicas.Point('sp', 5.0), replicas.Point('eo', 50.0)]
  problems = [toy.problem(s, metrics=('sp', 'eo')) for s in range(2)]
  grid = replicas.Grid(2, points, ('sp', 'eo'), how)
  parts = replicas.replicated(trained, grid, 2, lambda earlier, seen, seed: targets())
  batch = problem.stacked(problems)
  state = jax.jit(parts.init)(jax.random.key(0), batch, {})
  state, _ = jax.jit(parts.step)(state, batch, jax.random.key(9))
  single = jax.jit(training.repeated(trained.epoch, 2))
  for replica, (point, seed) in enumerate(itertools.product(range(2), range(2))):
    one = init(jax.random.fold_in(jax.random.key(0), seed), problems[seed], targets())
    knobs = training.Knobs(jnp.float32(points[point].alpha), jnp.int32(point))
    one, _ = single(one, problems[seed], jax.random.fold_in(jax.random.key(9), seed), knobs)
    jax.tree.map(
      lambda a, b, r=replica: np.testing.assert_allclose(a[r], b, rtol=1e-3, atol=1e-5), state.params, one.params
    )


def test_one_graph_serves_all_seeds():
  trained, _, _ = cpf('none')
  grid = replicas.Grid(3, [replicas.Point('sp', 0.0)], ('sp',))
  parts = replicas.replicated(trained, grid, 1, lambda earlier, seen, seed: targets())
  batch = problem.stacked([toy.problem()])
  state = jax.jit(parts.init)(jax.random.key(0), batch, {})
  assert state.params['student']['attn_l'].shape == (3, toy.FEATURES)
  assert len(np.unique(np.asarray(state.params['student']['attn_l'])[:, 0])) == 3


def test_parameter_counts_are_the_published_ones():
  counts = {
    name: model.parameter_count(jax.eval_shape(lambda k, m=m: m.init(k, 18, 2, 18_876), jax.random.key(0)))
    for name, m in (
      ('gcn', model.gcn()),
      ('sage', model.sage()),
      ('gat', model.gat()),
      ('appnp', model.appnp()),
      ('mlp', model.mlp()),
      ('plp', model.plp()),
    )
  }
  # 18,876 numbers of the authors' PLP module are never used, and are not here.
  assert counts == {'gcn': 5506, 'sage': 35714, 'gat': 1412, 'appnp': 1346, 'mlp': 1346, 'plp': 39116 - 18876}
  student = jax.eval_shape(lambda k: model.sgc_student().init(k, 20, 2, 9), jax.random.key(0))
  assert model.parameter_count(student) == 5634


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'teacher': 'gin'}, 'gin'),
    ({'framework': 'kd'}, 'kd'),
    ({'metric': 'cf'}, 'cf'),
    ({'proxy': 'some'}, 'some'),
    ({'proxy_columns': 'first', 'seeds': 1}, 'first'),
    ({'seeds': 0}, 'at least 1'),
    ({'student.epochs': 21}, 'no multiple'),
    ({'student.num_layers': 1}, 'no propagation'),
    ({'data.dataset': 'pokec'}, 'pokec'),
    ({'data.dataset': 'bail', 'data.dir': 'nowhere'}, 'bail.csv is missing'),
    ({'parallel': 'pmap'}, 'jit'),
    ({'sampling.batch_size': 64}, 'one graph for all seeds'),
  ],
)
def test_a_wrong_setting_ends_in_a_sentence(changes, words):
  config = config_module.get_config('test')
  for key, value in changes.items():
    *parents, last = key.split('.')
    node = config
    for parent in parents:
      node = node[parent]
    node[last] = value
  with pytest.raises((UserError, ValueError), match=words):
    made = experiment.experiment(config)
    stage = made.stages[1]
    jax.eval_shape(stage.init, jax.random.key(0), stage.batch(0), {'teacher': None})


@pytest.mark.parametrize('changes', [{'framework': 'akd', 'teacher': 'sage'}, {'teacher': 'gat', 'proxy': 'fixed'}])
def test_other_pairs_fit_together(changes):
  config = config_module.get_config('test')
  config.update(changes)
  made = experiment.experiment(config)
  states = {}
  for stage in made.stages:
    batch = stage.batch(0)
    states[stage.name] = jax.eval_shape(stage.init, jax.random.key(0), batch, dict(states))
    after, _ = jax.eval_shape(stage.step, states[stage.name], batch, jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, states[stage.name])
  assert list(states)[-1] == ('fixed_proxies' if 'proxy' in changes else 'reliant')


def test_an_absent_peer_is_said():
  try:
    import torch_geometric  # noqa: F401
  except ImportError:
    with pytest.raises(UserError, match='needs PyTorch Geometric'):
      peers.torch_geometric_peer(config_module.get_config('test'), repeats=1, threads=1)


def test_the_trace_keeps_the_proxies_of_its_moments():
  assert trace.moments(175) == (0, 58, 117, 175)
  trained, init, epoch = cpf('learned')
  kept = trace.traced(trained, (0, 2, 3, 9))
  data = toy.problem()
  state, plain = jax.jit(kept.init)(jax.random.key(0), data, targets()), init(jax.random.key(0), data, targets())
  step, seen = jax.jit(kept.epoch), [plain.params['proxy']]
  for i in range(4):
    state, _ = step(state, data, jax.random.key(i), KNOBS)
    plain, _ = epoch(plain, data, jax.random.key(i), KNOBS)
    seen.append(plain.params['proxy'])
  want = [seen[0], seen[2], seen[3], seen[0]]
  np.testing.assert_allclose(state.model_state['trace'], np.stack(want), rtol=1e-4, atol=1e-6)
  assert not np.allclose(seen[2], seen[3])


def test_metrics_of_a_step_are_means_of_its_epochs_and_the_last_validation():
  def epoch(state, problem, key, knobs):
    return state + 1, {'loss': 1.0 * state, 'val_loss': 1.0 * state}

  state, metrics = jax.jit(training.repeated(epoch, 4))(jnp.int32(0), None, jax.random.key(0))
  assert state == 4 and metrics['loss'] == 1.5 and metrics['val_loss'] == 3.0


def test_gradients_of_the_other_objectives_variables_are_never_formed():
  data, state = toy.problem(), jax.eval_shape(cpf('learned')[0].init, jax.random.key(0), toy.problem(), targets())
  inputs = training.Input('learned', 'append')

  def flops(function, *arguments):
    return measure.program_flops(function, *arguments)

  def unfair(student, proxies):
    logits = STUDENT.apply(student, inputs.individual(data.graph, proxies), jax.random.key(0)).logits
    return fairness.gap(jax.nn.softmax(logits), data.student_contrast[0])

  def epoch(kind):
    trained = cpf(kind)[0]
    start = jax.eval_shape(trained.init, jax.random.key(0), data, targets())
    return flops(lambda s: trained.epoch(s, data, jax.random.key(0), KNOBS), start)

  both = (state.params['student'], state.params['proxy'])
  proxies_alone = flops(jax.grad(unfair, argnums=1), *both)
  assert epoch('learned') - epoch('frozen') == proxies_alone
  assert proxies_alone < flops(jax.grad(unfair, argnums=(0, 1)), *both)
