"""Compares jaxpapers.reliant with outputs of the authors' code. What a file is, its `meta` says."""

from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.reliant import (
  akd,
  data,
  fairness,
  layers,
  losses,
  metrics,
  model,
  official,
  propagation,
  selection,
  training,
)
from jaxpapers.reliant.problem import Splits, make_problem
from tests.golden import Check, UnknownKindError, default_folder, group, load

KINDS = {
  'forward': 'forward',
  'loss terms': 'loss_terms',
  'official student steps': 'cpf_steps',
  'official GraphAKD': 'akd_steps',
  'teacher supervised steps': 'teacher_steps',
  'whole bail graph': 'bail_full',
  'PLP students trained on bail': 'bail_students',
  'class probabilities of every node': 'bail_teacher',
}


def run(path: Path) -> Iterable[Check]:
  arrays, meta = load(path)
  kind = meta.get('kind') or ('teacher' if 'output/probs_x1e4' in arrays else 'none')
  for start, name in KINDS.items():
    if start in kind:
      yield from globals()[name](arrays, meta, path)
      return
  raise UnknownKindError(f'unknown kind {kind!r}; known: {", ".join(KINDS)}')


def problem_of(arrays, **options):
  g = group(arrays, 'input')
  classes = options.pop('classes', 2)
  splits = Splits(g['idx_train'], g['idx_val'], g['idx_test'])
  return make_problem(g['x'], g['senders'], g['receivers'], g['labels'], g['sens'], splits, classes=classes, **options)


def imported(kind, state):
  return jax.tree.map(jnp.asarray, official.import_official(kind, state, official.template_of(kind, state)))


def forward(arrays, meta, path):
  problem = problem_of(arrays, classes=meta['classes'], framework='akd', metrics=())
  graph, params, out = problem.graph, group(arrays, 'param'), group(arrays, 'output')
  # Our edges are sorted; reference edge values are in the file's order.
  order = np.argsort(arrays['input/receivers'], kind='stable')
  stacks = {
    'gcn': ('gcn', model.gcn()),
    'sage': ('sage', model.sage()),
    'sage_mean': ('sage', model.sage(aggregator='mean')),
    'gat': ('gat', model.gat()),
    'appnp': ('appnp', model.appnp(steps=meta['appnp']['k'])),
    'mlp': ('mlp', model.mlp()),
    'logreg': ('logistic_regression', model.logistic_regression()),
    'sgc_teacher': ('sgc', model.sgc(meta['sgc_teacher']['k'])),
    'sgc_student': ('sgc_student', model.sgc_student()),
  }
  for name, (kind, stack) in stacks.items():
    if not group(params, name):
      continue
    weights = imported(kind, group(params, name))
    got = jax.jit(stack.apply)(weights, graph)
    want = group(out, name)
    yield Check(f'{name} logits', got.logits, want['logits'], 1e-5)
    if 'emb' in want:
      yield Check(f'{name} emb', got.embedding, want['emb'], 1e-5)
    if 'log_probs' in want:
      yield Check(f'{name} log_probs', jax.nn.log_softmax(got.logits), want['log_probs'], 1e-5)
    if name == 'gat':
      hidden = got.embedding
      attention = jax.jit(lambda h, p: layers.gat_convolution(graph, h, p)[1])(hidden, weights['layer_1'])
      yield Check('gat attention', np.asarray(attention)[:, 0], want['attention'][order], 1e-5)
  for name, settings in meta['plp'].items():
    weights, want = imported('plp', group(params, name)), group(out, name)
    student = model.plp(num_layers=settings['num_layers'])
    yield Check(f'{name} logits', jax.jit(student.apply)(weights, graph).logits, want['logits'], 1e-5)
    yield Check(f'{name} attention', jax.jit(propagation.attention)(weights, graph), want['attention'][order], 1e-5)
    yield Check(f'{name} alpha', jax.nn.sigmoid(weights['lr_alpha']), want['alpha'], 1e-5)
    scores = propagation.sender_scores(weights, graph.nodes['x'], graph.nodes['id'])
    yield Check(f'{name} el', scores, want['el'], 1e-5)
  embedding = jnp.asarray(arrays['input/disc_emb'])
  judge = imported('discriminator_logits', group(params, 'logits_D'))
  yield Check('logits_D', akd.judge_logits(judge, jnp.asarray(arrays['input/disc_logits'])), out['logits_D'], 1e-5)
  judge = imported('discriminator_edges', group(params, 'local_emb_D'))
  yield Check('local_emb_D', akd.judge_edges(judge, graph, embedding), out['local_emb_D'][order], 1e-5)
  c = akd.summary(embedding)
  judge = imported('discriminator_graph', group(params, 'global_emb_D'))
  yield Check('summary', c, out['summary'], 1e-5)
  yield Check('global_emb_D', akd.judge_graph(judge, embedding, c), out['global_emb_D'], 1e-5)


def total(far, unfair):
  return lambda z: far(z) + 1000.0 * unfair(z)


def loss_terms(arrays, meta, path):
  yield Check(
    'curve', fairness.soft_step(jnp.asarray(arrays['input/curve_s'], jnp.float32)), arrays['output/curve_f'], 1e-6
  )
  for prefix in sorted({name.split('/')[1] for name in arrays if name.endswith('/logits')}):
    g, out = group(arrays, f'input/{prefix}'), group(arrays, f'output/{prefix}')
    logits, teacher = jnp.asarray(g['logits']), jnp.asarray(g['teacher_probs'])
    members = np.zeros(len(logits), bool)
    members[g['idx']] = True
    mask, everyone = jnp.asarray(members, jnp.float32), jnp.ones(len(logits))
    sp = fairness.group_contrast(g['sens'], members)
    eo = fairness.group_contrast(g['sens'], members, g['labels'])

    def far(name, mask, teacher=teacher):
      return lambda z: losses.distance(name, z, teacher, mask)

    def unfair(contrast):
      return lambda z: fairness.gap(jax.nn.softmax(z), jnp.asarray(contrast))

    terms = {
      'sp': unfair(sp),
      'eo': unfair(eo),
      'kd_frobenius': far('frobenius', mask),
      'kd_bce': far('binary_cross_entropy', mask),
      'kd_kl_mean': far('kl_mean', mask),
      'kl_batchmean': far('kl_batchmean', everyone),
    }
    for metric in ('sp', 'eo'):
      terms[f'cpf_total_{metric}'] = total(terms['kd_frobenius'], terms[metric])
    for name, term in terms.items():
      value, grad = jax.jit(jax.value_and_grad(term))(logits)
      yield Check(f'{prefix} {name}', value, out[name], 1e-6, relative=True)
      # The totals' gradients are sums of 1000 times the gaps' and carry that many units of rounding.
      scale = 1000.0 if 'total' in name else 1.0
      yield Check(f'{prefix} {name} gradient', grad, out[f'{name}_grad_logits'], 1e-6 * scale)
    predicted, idx = metrics.predictions(g['logits']), np.arange(len(logits))
    dsp = metrics.statistical_parity_gap(predicted, g['sens'][idx])
    yield Check(f'{prefix} delta_sp', dsp, out['delta_sp'], 1e-9)
    deo = metrics.equal_opportunity_gap(predicted, g['labels'][idx], g['sens'][idx])
    yield Check(f'{prefix} delta_eo', deo, out['delta_eo'], 1e-9)
    yield Check(f'{prefix} accuracy', np.mean(predicted == g['labels'][idx]), out['accuracy'], 1e-9)


def compare(state, want, tolerance, label):
  for name, value in want.items():
    yield Check(f'{label} {name}', state[name], value, tolerance)


def cpf_steps(arrays, meta, path):
  problem = problem_of(arrays, metrics=(meta['metric'],))
  nodes = len(problem.labels)
  kind = {'RELIANT': 'learned', 'proxy': 'fixed', 'vanilla': 'none'}[meta['mode'].split()[0]]
  student = model.plp(meta['emb_dim'], meta['num_layers'], feature_dropout=0.0, attention_dropout=0.0)
  inputs = training.Input(kind, 'replace_last')
  options = {'classes': 2, 'nodes': nodes, 'inputs': inputs, 'selection': selection.Selection()}
  trained = training.cpf_training(student, training.coupled_adam(meta['lr'], meta['weight_decay']), **options)
  targets = training.Targets(jnp.asarray(arrays['input/teacher_probs']), jnp.zeros(1), jnp.zeros(1))
  weights = {'student': imported('plp', group(arrays, 'param'))}
  if kind != 'none':
    weights['proxy'] = jnp.asarray(arrays['input/proxy'])
  state = started(trained, problem, targets, weights)
  knobs = training.Knobs(jnp.float32(meta['alpha']), jnp.int32(0))
  epoch = jax.jit(trained.epoch)
  rows, judged = [], []

  @jax.jit
  def validation(params):
    """The authors' validation loss is the distance to the teacher over validation nodes."""
    logits = training.student_outputs(student, inputs, params, problem.graph).logits
    return logits, losses.distance('frobenius', logits, targets.probabilities, jnp.asarray(problem.val))

  for step in range(1, meta['steps'] + 1):
    state, got = epoch(state, problem, jax.random.key(step), knobs)
    proxy_loss = [-meta['alpha'] * got['gap_individual']] if kind == 'learned' else []
    rows.append([got['loss'], *proxy_loss])
    logits, far = validation(state.params)
    judged.append([got['val_accuracy'], far])
    want = group(arrays, f'output/step{step}')
    if want:
      mine = official.export_official('plp', state.params['student'])
      # The unused parameter never moves.
      mine['alpha'] = arrays['param/alpha']
      mine['proxy'] = state.params.get('proxy')
      yield from compare(mine, want, 5e-5, f'step {step}')
  yield Check('losses', np.array(rows), arrays['output/losses'], 2e-5)
  yield Check('validation', np.array(judged), arrays['output/val_acc_and_loss'], 2e-5)
  yield Check('log_probs', jax.nn.log_softmax(logits), arrays['output/eval_log_probs'], 5e-5)


def started(trained, problem, targets, weights):
  """A state as `init` makes it, with the file's weights; Adam starts at zeros, whatever the weights."""
  state = jax.eval_shape(trained.init, jax.random.key(0), problem, targets)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (state.step, state.opt_state))
  best = selection.first_best({k: v for k, v in weights.items() if k != 'discriminators'})
  return state.replace(
    step=zeros[0], params=weights, opt_state=zeros[1], model_state={'best': best, 'targets': targets}
  )


def akd_steps(arrays, meta, path):
  problem = problem_of(arrays, metrics=(meta['metric'],), framework='akd')
  kind = {0: 'none', 1: 'fixed', 2: 'learned'}[meta['proxy']]
  weights = {
    'student': imported('sgc_student', group(arrays, 'param/model')),
    'discriminators': {
      'logits': imported('discriminator_logits', group(arrays, 'param/Discriminator')),
      'edges': imported('discriminator_edges', group(arrays, 'param/Discriminator_e')),
      'graph': imported('discriminator_graph', group(arrays, 'param/Discriminator_g')),
    },
  }
  if kind != 'none':
    weights['proxy'] = jnp.asarray(arrays['param/proxy'])
  width = arrays['input/teacher_emb'].shape[1]
  student = model.sgc_student(width, dropout=0.0)
  inputs = training.Input(kind, 'append')
  trained = training.akd_training(
    student,
    training.coupled_adam(meta['lr_student'], meta['weight_decay']),
    training.coupled_adam(meta['lr_disc_and_proxy'], meta['weight_decay']),
    classes=2,
    nodes=len(problem.labels),
    inputs=inputs,
    selection=selection.Selection('loss'),
  )
  teacher = jnp.asarray(arrays['input/teacher_log_probs'])
  targets = training.Targets(jnp.exp(teacher), teacher, jnp.asarray(arrays['input/teacher_emb']))
  state = started(trained, problem, targets, weights)
  knobs = training.Knobs(jnp.float32(meta['alpha']), jnp.int32(0))
  epoch = jax.jit(trained.epoch)
  rows = []
  for step in range(1, meta['steps'] + 1):
    state, got = epoch(state, problem, jax.random.key(step), knobs)
    rows.append([got['discriminator_loss'], got['loss'], -meta['alpha'] * got.get('gap_individual', 0.0)])
    want = group(arrays, f'output/step{step}')
    if want:
      judges = state.params['discriminators']
      parts = {
        'model': official.export_official('sgc_student', state.params['student']),
        'Discriminator': official.export_official('discriminator_logits', judges['logits']),
        'Discriminator_e': official.export_official('discriminator_edges', judges['edges']),
        'Discriminator_g': official.export_official('discriminator_graph', judges['graph']),
      }
      mine = {f'{part}/{name}': value for part, values in parts.items() for name, value in values.items()}
      mine['proxy'] = state.params.get('proxy')
      yield from compare(mine, want, 5e-6, f'step {step}')
  yield Check('losses', np.array(rows)[:, : arrays['output/losses'].shape[1]], arrays['output/losses'], 2e-5)
  best = state.model_state['best']['params']
  logits = np.asarray(jax.jit(lambda p: training.student_outputs(student, inputs, p, problem.graph))(best).logits)
  g = group(arrays, 'input')
  test = metrics.summary(jax.nn.softmax(logits[g['idx_test']]), g['labels'][g['idx_test']], g['sens'][g['idx_test']])
  accuracy = np.mean(metrics.predictions(logits)[g['idx_val']] == g['labels'][g['idx_val']])
  yield Check('best', [accuracy, test['accuracy'], test['dsp'], test['deo']], arrays['output/best'], 1e-6)


def teacher_steps(arrays, meta, path):
  problem = problem_of(arrays)
  for name in ('gcn', 'sage'):
    settings = meta[name]
    stack = {'gcn': model.gcn(dropout=0.0), 'sage': model.sage(dropout=0.0)}[name]
    optimizer = training.coupled_adam(settings['lr'], settings['weight_decay'])
    trained = training.teacher_training(
      stack, optimizer, classes=2, nodes=len(problem.labels), selection=selection.Selection()
    )
    weights = imported(name, group(arrays, f'param/{name}'))

    def loss(params, stack=stack):
      logits = stack.apply(params, problem.graph, None).logits
      return losses.negative_log_likelihood(logits, jnp.asarray(problem.labels), jnp.asarray(problem.train))

    grads = official.export_official(name, jax.jit(jax.grad(loss))(weights))
    yield from compare(grads, group(arrays, f'output/{name}/grad1'), 1e-5, f'{name} gradient')
    state = jax.eval_shape(trained.init, jax.random.key(0), problem)
    best = selection.first_best(weights)
    state = state.replace(
      step=jnp.int32(0), params=weights, model_state={'best': best}, opt_state=optimizer.init(weights)
    )
    epoch, values = jax.jit(trained.epoch), []
    for step in range(1, meta['steps'] + 1):
      state, got = epoch(state, problem, jax.random.key(step))
      values.append(got['loss'])
      want = group(arrays, f'output/{name}/step{step}')
      yield from compare(official.export_official(name, state.params), want, 1e-5, f'{name} step {step}')
    yield Check(f'{name} losses', np.array(values), arrays[f'output/{name}/losses'], 1e-5)


def bail(metrics_=('sp', 'eo')):
  loaded = data.load('bail', str(default_folder('reliant').parents[1] / 'data' / 'reliant'))
  problem = make_problem(
    loaded.x, loaded.senders, loaded.receivers, loaded.labels, loaded.sensitive, loaded.splits, metrics=metrics_
  )
  return loaded, problem


def test_metrics(loaded, logits):
  test = loaded.splits.test
  got = metrics.summary(logits[test], loaded.labels[test], loaded.sensitive[test])
  return [got['accuracy'], got['dsp'], got['deo']]


def within_two_nodes(loaded, logits, want, name):
  """Metrics may differ by two nodes: in accuracy by two of the test set, in the gaps by two of the smallest group."""
  test = loaded.splits.test
  s, y = loaded.sensitive[test], loaded.labels[test]
  sizes = (len(test), min(np.bincount(s)), min(np.bincount(s[y == 1])))
  for label, got, reference, size in zip(
    ('accuracy', 'dsp', 'deo'), test_metrics(loaded, logits), want, sizes, strict=True
  ):
    yield Check(f'{name} {label}', got, reference, 2.0 / size + 1e-12)


def bail_full(arrays, meta, path):
  loaded, problem = bail()
  degree = np.bincount(loaded.receivers, minlength=len(loaded.x))
  yield Check('in_degree', degree, arrays['output/data/in_degree_with_self_loop'], 0)
  first = arrays['output/data/features_first_rows']
  yield Check('features', loaded.x[: len(first)], first, 1e-6)
  yield Check('column sums', loaded.x.sum(axis=0, dtype=np.float64), arrays['output/data/feature_column_sums'], 1e-2)
  checksum = [len(loaded.senders), np.sum(31 * loaded.senders.astype(np.int64) + 17 * loaded.receivers)]
  yield Check('edges', checksum, arrays['output/data/edge_checksum'], 0)
  for name, stack in (('gcn', model.gcn()), ('plp', model.plp(num_layers=meta['plp']['num_layers']))):
    weights = imported(name, group(arrays, f'param/{name}'))
    logits = jax.jit(stack.apply)(weights, problem.graph).logits
    yield Check(f'{name} logits', logits, arrays[f'output/{name}/logits'], 5e-5)
    yield from within_two_nodes(loaded, np.asarray(logits), arrays[f'output/{name}/test_metrics'], name)
  probabilities = jax.nn.softmax(logits)
  teacher = np.load(path.parent / 'bail_teacher_gcn.npz')['output/probs_x1e4'].astype(np.float32) / 1e4
  rest = 1.0 - problem.train
  terms = [losses.frobenius(probabilities, jnp.asarray(teacher), jnp.asarray(rest))]
  terms += [fairness.gap(probabilities, jnp.asarray(row)) for row in problem.student_contrast]
  yield Check('loss terms', terms, arrays['output/plp/loss_terms'], 5e-5)


def bail_students(arrays, meta, path):
  loaded, problem = bail()
  student = jax.jit(model.plp(num_layers=meta['plp']['num_layers']).apply)
  for name in sorted({key.split('/')[1] for key in arrays if key.startswith('param/')}):
    weights = imported('plp', group(arrays, f'param/{name}'))
    graph = problem.graph
    if name.endswith('without_last_two'):
      x = graph.nodes['x'].copy()
      x[:, -2:] = 0.0
      graph = graph._replace(nodes={**graph.nodes, 'x': x})
    logits = student(weights, graph).logits
    yield Check(f'{name} logits', logits, arrays[f'output/{name}/logits'], 5e-5)
    yield from within_two_nodes(loaded, np.asarray(logits), arrays[f'output/{name}/test_metrics'], name)


def bail_teacher(arrays, meta, path):
  loaded, _ = bail()
  probabilities = arrays['output/probs_x1e4'].astype(np.float64) / 1e4
  yield Check('test metrics', test_metrics(loaded, probabilities), arrays['output/test_metrics'], 1e-9)
