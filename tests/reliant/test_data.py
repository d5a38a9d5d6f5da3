import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

from jaxpapers.reliant import data, formats, layers, model, official
from jaxpapers.reliant.blockmodel import block_model
from jaxpapers.reliant.problem import Splits, make_problem, stacked
from jaxpapers.reliant.sampling import Sampler
from jaxpapers.reliant.similarity import similarity_edges
from jaxpapers.reliant.splits import split_by_class
from tests import golden
from tests.reliant import toy

REAL = golden.default_folder('reliant').parents[1] / 'data' / 'reliant'


def test_the_block_model_is_planted_as_it_says():
  x, senders, receivers, labels, sensitive, splits = block_model(3)
  assert len(senders) == 2 * 6000 + 1200 and x.shape == (1200, 16)
  gap = labels[sensitive == 1].mean() - labels[sensitive == 0].mean()
  assert 0.15 < gap < 0.35
  off = senders != receivers
  assert np.mean(labels[senders[off]] == labels[receivers[off]]) > 0.7
  assert np.mean(sensitive[senders[off]] == sensitive[receivers[off]]) > 0.65
  np.testing.assert_allclose(x[:, :6].mean(axis=1)[labels == 1].mean(), 0.45, atol=0.05)
  assert [round(len(s) / 1200, 1) for s in splits] == [0.3, 0.2, 0.5]
  again = block_model(3)
  np.testing.assert_array_equal(again[1], senders)
  with pytest.raises(ValueError, match='too many'):
    block_model(0, 20, 190)


def test_similar_rows_are_neighbours():
  rows = np.random.default_rng(0).integers(0, 9, (30, 3)).astype(float)
  i, j = similarity_edges(rows, 0.6)
  want = []
  for a in range(30):
    similarity = [0.0 if a == b else 1 / (1 + np.linalg.norm(rows[a] - rows[b])) for b in range(30)]
    want += [(a, b) for b in range(30) if similarity[b] > 0.6 * max(similarity)]
  assert list(zip(i.tolist(), j.tolist(), strict=True)) == want
  rows[4, 1] = np.nan
  with pytest.raises(ValueError, match='Row 4'):
    similarity_edges(rows, 0.6)


@pytest.mark.skipif(not REAL.is_dir(), reason=f'{REAL} is absent')
@pytest.mark.parametrize(('name', 'edges'), [('bail', 642_616), ('credit', 304_754), ('dblp', 144_344)])
def test_real_data_have_the_published_sizes_and_splits(name, edges):
  loaded = data.load(name, str(REAL))
  assert len(loaded.senders) == edges
  options = data.RULES[name].split if name in data.RULES else {'train': 0.5, 'val': 0.25}
  for got, want in zip(split_by_class(loaded.labels, **options), loaded.splits, strict=True):
    np.testing.assert_array_equal(got, want)
  assert bool(loaded.note) == (name == 'dblp')


def write_bail(folder, edges=True, split=True):
  rng = np.random.default_rng(0)
  rows = np.stack([rng.integers(0, 2, 40), rng.integers(-9, 30, 40), rng.integers(0, 2, 40)], axis=1)
  rows[:4, [0, 2]] = [[0, 0], [0, 1], [1, 0], [1, 1]]
  rows[5, [0, 1]] = [0, 0]
  lines = ['WHITE,AGE,RECID'] + [','.join(map(str, r)) for r in rows]
  (folder / 'bail.csv').write_text('\n'.join(lines) + '\n')
  if edges:
    np.savetxt(folder / 'bail_edges.txt', rng.integers(0, 40, (60, 2)), fmt='%.18e')
  if split:
    (folder / 'split').mkdir()
    for name, part in zip(Splits._fields, np.split(np.arange(40.0), [12, 20]), strict=True):
      np.save(folder / 'split' / f'{name}_split.npy', part)
  return rows


def test_the_official_bail_files(tmp_path):
  rows = write_bail(tmp_path)
  loaded = data.load('bail', str(tmp_path))
  assert loaded.features == ('WHITE', 'AGE')
  sums = rows[:, :2].sum(axis=1, keepdims=True)
  want = np.where(sums == 0, 0.0, rows[:, :2] / np.where(sums == 0, 1, sums))
  np.testing.assert_allclose(loaded.x, want, rtol=1e-6)
  assert not loaded.x[5].any()
  np.testing.assert_array_equal(loaded.splits.val, np.arange(12, 20))
  (tmp_path / 'bail_edges.txt').unlink()
  rebuilt = data.load('bail', str(tmp_path))
  assert len(rebuilt.senders) > 40


def test_official_dblp_and_credit_files(tmp_path):
  n = 16
  x = sparse.coo_array((np.ones(5), ([0, 1, 2, 3, 4], [0, 2, 1, 2, 0])), shape=(n, 3))
  np.savez(tmp_path / 'X.npz', data=x.data, row=x.row, col=x.col, shape=x.shape)
  codes = np.arange(n)
  (tmp_path / 'labels.txt').write_text('\n'.join(f'{i} {3 if i % 2 else 1}' for i in codes))
  (tmp_path / 'sens.txt').write_text('\n'.join(f'{i} {2 if i % 3 else 0}' for i in codes))
  (tmp_path / 'edgelist.txt').write_text('0\t1\n2\t3\n')
  (tmp_path / 'split').mkdir()
  for name, part in zip(Splits._fields, np.split(codes.astype(float), [6, 10]), strict=True):
    np.save(tmp_path / 'split' / f'{name}_split.npy', part)
  loaded = data.load('dblp', str(tmp_path))
  assert loaded.x.shape == (n, 3) and len(loaded.senders) == n + 4 and loaded.labels.sum() == 8 and not loaded.note
  np.testing.assert_array_equal(loaded.sensitive, codes % 3 > 0)
  adjacency = sparse.csr_array((np.ones(n), (codes, (codes + 1) % n)), shape=(n, n))
  attributes = sparse.csr_array(np.arange(n * 2.0).reshape(n, 2))
  parts = {
    f'{name}_{key}': getattr(m, key)
    for name, m in (('adj', adjacency), ('attr', attributes))
    for key in ('data', 'indices', 'indptr', 'shape')
  }
  np.savez(tmp_path / 'credit.npz', labels=codes % 2, sens=codes // 8, **parts)
  credit = data.load('credit', str(tmp_path))
  assert set(np.unique(credit.x)) == {0.0, 1.0} and len(credit.senders) == 3 * n


def test_a_table_of_your_own(tmp_path):
  write_bail(tmp_path)
  table, edges = str(tmp_path / 'bail.csv'), str(tmp_path / 'bail_edges.txt')
  loaded = data.load_csv(table, edges, 'RECID', 'WHITE')
  assert loaded.features == ('WHITE', 'AGE') and loaded.x.min() == 0.0 and loaded.x.max() == 1.0
  for arguments, words in (
    ((table, edges, 'PAID', 'WHITE'), "no label column 'PAID'"),
    ((table, edges, 'RECID', 'AGE'), "sensitive attribute 'AGE' must be 0 or 1"),
    ((table, edges, 'AGE', 'WHITE'), "label 'AGE' must be 0 or 1"),
    ((table, edges, 'RECID', 'RACE'), "no sensitive column 'RACE'"),
    ((table, edges, 'RECID', ''), 'names of its label'),
  ):
    with pytest.raises(ValueError, match=words):
      data.load_csv(*arguments)
  with pytest.raises(FileNotFoundError, match='config.data.table'):
    data.load_csv(str(tmp_path / 'none.csv'), '', 'RECID', 'WHITE')
  with pytest.raises(FileNotFoundError, match='config.data.edges'):
    data.load_csv(table, str(tmp_path / 'none.txt'), 'RECID', 'WHITE')


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('0 1 2\n', 'two columns'),
    ('0 40\n', 'outside the nodes 0..39'),
    ('3 -1\n', 'outside the nodes'),
    ('0 1.5\n', '1.5, which is no node number'),
    ('0 one\n', 'no number'),
  ],
)
def test_wrong_edge_files_are_named(tmp_path, text, words):
  write_bail(tmp_path)
  (tmp_path / 'bail_edges.txt').write_text(text)
  with pytest.raises(ValueError, match=words):
    data.load('bail', str(tmp_path))


@pytest.mark.parametrize(
  ('text', 'words'),
  [('A,B\n1\n', 'line 2 has 1 cells'), ('A,B\n1,x\n', 'line 2'), ('', 'is empty'), ('A\n', 'no rows')],
)
def test_wrong_tables_are_named(tmp_path, text, words):
  path = tmp_path / 'table.csv'
  path.write_text(text)
  with pytest.raises(ValueError, match=words):
    formats.read_table(path)


def test_a_missing_file_says_how_to_get_it(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'bail.csv is missing. .*yushundong/RELIANT'):
    data.load('bail', str(tmp_path))
  with pytest.raises(ValueError, match='pokec'):
    data.load('pokec')
  with pytest.raises(ValueError, match='Feature 1 of row 0 is no number'):
    formats.normalized(np.array([[1.0, np.nan]]), 'minmax')


@pytest.mark.parametrize(
  ('splits', 'words'),
  [
    (([0, 1], [], [4]), "'val' is empty"),
    (([0, 1], [1, 2], [4]), "Node 1 is in split 'train' and in split 'val'"),
    (([0, 1], [2], [99]), "'test' holds node 99"),
    (([0, 1.5], [2], [4]), '1.5, which is no node number'),
    (([0, 3], [2], [4]), "Node 3 of split 'train' has label -1"),
  ],
)
def test_wrong_splits_and_unlabelled_nodes_are_named(splits, words):
  x, y, s = toy.arrays()
  y = y.copy()
  y[3] = -1
  with pytest.raises(ValueError, match=words):
    make_problem(x, *toy.edges(), y, s, Splits(*map(np.asarray, splits)))


def test_dangling_edges_and_missing_groups_are_named():
  x, y, s = toy.arrays()
  splits = Splits(np.arange(8), np.arange(8, 12), np.arange(12, 24))
  senders, receivers = toy.edges()
  with pytest.raises(ValueError, match='Edge 0 has sender 24'):
    make_problem(x, np.where(np.arange(len(senders)) == 0, 24, senders), receivers, y, s, splits)
  with pytest.raises(ValueError, match='outside the training split has no nodes with sensitive value 1'):
    make_problem(x, senders, receivers, y, np.zeros(24, int), splits)
  for options, words in (({'framework': 'kd'}, 'kd'), ({'eo_labels': 'none'}, 'none'), ({'metrics': ('cf',)}, 'cf')):
    with pytest.raises(ValueError, match=words):
      toy.problem(**options)
  with pytest.raises(ValueError, match='equal shapes'):
    stacked([toy.problem(), toy.problem(metrics=('sp', 'eo'))])


@pytest.mark.parametrize(
  ('kind', 'made'),
  [
    ('gcn', model.gcn(4)),
    ('sage', model.sage(4, aggregator='mean')),
    ('gat', model.gat(3, 2)),
    ('appnp', model.appnp(4)),
    ('mlp', model.mlp(4)),
    ('sgc', model.sgc()),
    ('sgc_student', model.sgc_student(4)),
    ('plp', model.plp(4)),
    ('plp', model.plp(4, mlp_layers=1, kind='transductive')),
  ],
)
def test_official_names_round_trip(kind, made):
  template = jax.eval_shape(lambda k: made.init(k, 5, 2, 7), jax.random.key(0))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), template)
  state = official.export_official(kind, params)
  jax.tree.map(np.testing.assert_array_equal, official.import_official(kind, state, template), params)
  shapes = [jax.tree.map(lambda x: x.shape, t) for t in (official.template_of(kind, state), template)]
  assert shapes[0] == shapes[1]


def test_every_wrong_official_entry_is_named():
  made = model.plp(4)
  template = jax.eval_shape(lambda k: made.init(k, 5, 2, 7), jax.random.key(0))
  state = official.export_official('plp', jax.tree.map(lambda x: np.zeros(x.shape), template))
  official.import_official('plp', {**state, 'alpha': np.zeros((7, 1))}, template)
  state.pop('plp_layer.mlp.linears.1.bias')
  state['plp_layer.lr_alpha'] = np.zeros((9, 1))
  state['plp_layer.extra'] = np.zeros(1)
  with pytest.raises(ValueError) as caught:
    official.import_official('plp', state, template)
  for words in (
    'linears.1.bias is missing',
    'plp_layer.extra is unexpected',
    'lr_alpha has shape (9, 1), not (7, 1)',
  ):
    assert words in str(caught.value)
  with pytest.raises(ValueError, match='gin'):
    official.import_official('gin', {}, {})


def test_sampled_sums_are_unbiased_and_shapes_static():
  problem = toy.problem()
  x = problem.graph.nodes['x']
  want = np.asarray(layers.propagate(problem.graph, x))
  sampler = Sampler(problem, np.arange(toy.NODES), 6, (2,), metrics=('sp',))
  propagate = jax.jit(lambda graph: layers.propagate(graph, graph.nodes['x']))
  shapes, total, count = set(), np.zeros_like(want), np.zeros(toy.NODES)
  for step in range(1600):
    sample = sampler(step)
    shapes.add(str(jax.tree.map(np.shape, sample)))
    chosen = np.flatnonzero(sample.real)
    ids = sample.graph.nodes['id'][chosen]
    total[ids] += np.asarray(propagate(sample.graph))[chosen]
    count[ids] += 1
  assert len(shapes) == 1 and (count == 400).all()
  assert (np.diff(sample.graph.receivers) >= 0).all()
  error = np.abs(total / 400 - want)
  assert error.max() < 0.35 and error.mean() < 0.06
  # Two draws of one step are equal; two steps are not.
  jax.tree.map(np.testing.assert_array_equal, sampler(3), sampler(3))
  assert not np.array_equal(sampler(3).graph.nodes['id'], sampler(4).graph.nodes['id'])


def test_a_sample_of_everything_is_the_full_batch():
  problem = toy.problem()
  sampler = Sampler(problem, np.arange(toy.NODES), toy.NODES, (toy.NODES, toy.NODES))
  sample = sampler(0)
  places = np.flatnonzero(sample.real)
  ids = sample.graph.nodes['id'][places]
  for made in (model.gcn(4, depth=2), model.sage(4, depth=2), model.gat(3, 2), model.plp(4, 3)):

    @jax.jit
    def run(graph, made=made):
      return made.apply(made.init(jax.random.key(0), toy.FEATURES, 2, toy.NODES), graph, None).logits

    np.testing.assert_allclose(run(sample.graph)[places], run(problem.graph)[ids], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(sample.student_contrast[0][places], problem.student_contrast[0][ids], atol=1e-7)
  for arguments, words in (((99, (2,)), '1..24'), ((4, ()), 'fanouts'), ((4, (0,)), 'fanouts')):
    with pytest.raises(ValueError, match=words):
      Sampler(problem, np.arange(toy.NODES), *arguments)


def test_shared_padding_points_nowhere():
  sample = Sampler(toy.problem(), np.arange(8), 3, (2, 2))(0)
  values = jnp.ones((len(sample.real), 1))
  sums = np.asarray(layers.aggregate(sample.graph, values))[:, 0]
  chosen = np.flatnonzero(sample.real)
  np.testing.assert_allclose(sums[chosen], sample.graph.nodes['in_degree'][chosen], rtol=1e-5)
