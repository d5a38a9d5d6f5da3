"""Compares metrics, opinion scores, splits, scanpaths, saliency and the real tables with stored references."""

import functools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.vr_quality import alignment, database, database_statistics, mos, saliency, splits
from jaxpapers.vr_quality import correlation as agree
from jaxpapers.vr_quality import scanpath_metrics as pairs
from jaxpapers.vr_quality import scanpath_statistics as single
from jaxpapers.vr_quality.losses import plcc_loss
from jaxpapers.vr_quality.sphere import angle_between, axis_rotation, rotation_z, to_lonlat, unit_vector
from tests.golden import Check, UnknownKindError, group, load


def run(path: Path) -> Iterable[Check]:
  """Checks of one file; what it is, the names of its arrays say."""
  if path.suffix == '.json':
    yield from real_stats(json.loads(path.read_text()))
    return
  data, meta = load(path)
  kinds = {
    'input/const_pred': metrics,
    'input/ratings': ratings,
    'output/seed0_train': split,
    'input/scanpaths_xyz': scanpaths,
    'input/fixations_xyz': maps,
  }
  for mark, compare in kinds.items():
    if mark in data:
      yield from compare(data, meta)
      return
  raise UnknownKindError(f'{path.name} holds nothing that is known: {", ".join(list(data)[:6])}')


def metrics(data: dict, meta: dict) -> Iterable[Check]:
  for name in sorted(key[6:-5] for key in data if key.startswith('input/case') and key.endswith('_pred')):
    x, y = data[f'input/{name}_pred'], data[f'input/{name}_mos']
    got, raw = agree.agreement(x, y), agree.agreement(x, y, 0)
    plcc, srcc, krcc, rmse = data[f'output/{name}_plcc_srcc_krcc_rmse']
    sse = float(data[f'output/{name}_sse'])
    # The reference is the optimum that another optimiser found: ours must be as good, and then the same.
    yield Check(f'{name} sse', max(0.0, got.fit.sse / sse - 1.0), 0.0, 1e-6)
    if got.fit.sse > sse * (1.0 - 1e-3):
      yield Check(f'{name} plcc', got.plcc, plcc, 1e-3)
      yield Check(f'{name} rmse', got.rmse, rmse, 1e-3)
    yield Check(f'{name} srcc', got.srcc, srcc, 1e-12)
    yield Check(f'{name} krcc', got.krcc, krcc, 1e-12)
    yield Check(
      f'{name} raw',
      [raw.plcc, raw.srcc, raw.krcc, raw.rmse],
      [*data[f'output/{name}_no_fit_plcc_srcc_krcc'], data[f'output/{name}_rmse_raw']],
      1e-12,
      relative=True,
    )
    with jax.enable_x64(True):
      yield Check(f'{name} srcc jit', jax.jit(agree.srcc)(x, y), srcc, 1e-12)
      yield Check(f'{name} krcc jit', jax.jit(agree.krcc)(x, y), krcc, 1e-12)
  yield from losses(data)


def losses(data: dict) -> Iterable[Check]:
  step = jax.jit(jax.value_and_grad(functools.partial(plcc_loss, floor=0.0)))
  with jax.enable_x64(True):
    for name in sorted(key[6:-5] for key in data if key.startswith('input/loss') and key.endswith('_pred')):
      loss, grad = step(data[f'input/{name}_pred'], data[f'input/{name}_mos'])
      yield Check(name, loss, data[f'output/{name}'], 1e-6)
      yield Check(f'{name} ref64', loss, data[f'ref64/{name}'], 1e-9)
      yield Check(f'{name} grad', grad, data[f'output/{name}_grad'], 1e-6)
    loss, grad = step(data['input/const_pred'].astype(np.float64), data['input/const_mos'].astype(np.float64))
    yield Check('const loss', loss, data['output/const_loss'], 1e-6)
    yield Check('const grad', grad, data['output/const_grad'], 1e-4, relative=True)


def ratings(data: dict, meta: dict) -> Iterable[Check]:
  table = data['input/ratings']
  screening, plain, model = mos.screen(table), mos.mos(table), mos.subject_model(table)
  kept = mos.mos(table, ~screening.rejected)
  got = {
    'bt500_P': screening.above,
    'bt500_Q': screening.below,
    'bt500_kurtosis': screening.kurtosis,
    'bt500_rejected': screening.rejected,
    'mos': plain.mean,
    'std': plain.std,
    'ci95': plain.ci95,
    'n': plain.count,
    'mos_screened': kept.mean,
    'std_screened': kept.std,
    'ci95_screened': kept.ci95,
    'mle_quality': model.quality,
    'mle_bias': model.bias,
    'mle_inconsistency': model.inconsistency,
    'z_mos': mos.z_mos(table),
    'loo_plcc': mos.leave_one_out(table),
    'sos_a': mos.sos(plain.mean, plain.std),
  }
  for name, want in group(data, 'output').items():
    exact = want.dtype.kind in 'iub'
    yield Check(name, got[name], want, 0 if exact else 1e-6 if name.startswith('mle') else 1e-8)


def split(data: dict, meta: dict) -> Iterable[Check]:
  output = group(data, 'output')
  for seed in sorted({int(name.split('_')[0][4:]) for name in output}):
    tests = {c: output[f'seed{seed}_test_{c}'] for c in database.CONDITIONS}
    rows = len(output[f'seed{seed}_train']) + len(output[f'seed{seed}_val']) + sum(map(len, tests.values()))
    got = splits.official(seed, rows)
    condition, video = splits.rows_of(rows // len(tests), len(tests))
    yield Check(f'seed{seed}_train', got.train, output[f'seed{seed}_train'], 0)
    yield Check(f'seed{seed}_val', got.valid, output[f'seed{seed}_val'], 0)
    facts = meta.get('stats', {}).get(str(seed))
    for number, (name, want) in enumerate(tests.items()):
      part = got.test[condition[got.test] == number]
      yield Check(f'seed{seed}_test_{name}', part, want, 0)
      if facts:
        whole = len(splits.whole_batches(part, 8))
        yield Check(f'seed{seed} whole batches {name}', whole, facts['test_after_drop_last_8'][name], 0)
    if facts:
      yield Check(f'seed{seed} leak', splits.leak(got, video), facts['leak'], 1e-12)


def scanpaths(data: dict, meta: dict) -> Iterable[Check]:
  with jax.enable_x64(True):
    paths = jnp.asarray(data['input/scanpaths_xyz'])
    degrees = meta['threshold_deg']
    measure = functools.partial(pairs.recurrence, radius=np.deg2rad(degrees), shortest_line=meta.get('line_min', 2))
    largest = functools.partial(pairs.time_delay_embedding, reduce='max')
    found = pairs.all_pairs(measure, paths)
    got = {
      'dtw': pairs.all_pairs(alignment.dtw, paths),
      'frechet': pairs.all_pairs(alignment.frechet, paths),
      'hausdorff': pairs.all_pairs(pairs.hausdorff, paths),
      'lev': pairs.all_pairs(alignment.levenshtein, paths),
      'tde_mean': pairs.all_pairs(pairs.time_delay_embedding, paths),
      'tde_max': pairs.all_pairs(largest, paths),
      'sync': pairs.all_pairs(pairs.synchronous, paths),
      **{f'{name}_thr{degrees:g}deg': value for name, value in found._asdict().items()},
      **path_statistics(paths),
    }
    half = paths.shape[1] // 2
    for name, metric in (('dtw', alignment.dtw), ('lev', alignment.levenshtein), ('frechet', alignment.frechet)):
      padded = pairs.all_pairs(metric, paths[:1], paths[1:2], None, jnp.asarray([half]))[0, 0]
      got[f'{name}_0_vs_first_half_of_1'] = padded
    for name, want in group(data, 'output').items():
      yield Check(name, got[name], want, 0 if want.dtype.kind in 'iu' else 1e-9)


def path_statistics(paths: jax.Array) -> dict[str, jax.Array]:
  lon, lat = to_lonlat(paths)
  return {
    'lon_deg': jnp.rad2deg(lon),
    'lat_deg': jnp.rad2deg(lat),
    'speed_deg_per_step': jnp.rad2deg(jax.vmap(single.angular_speed)(paths)),
    'total_length_deg': jnp.rad2deg(jax.vmap(single.total_length)(paths)),
    'mean_resultant_length': jax.vmap(single.resultant_length)(paths),
    'mean_abs_lat_deg': jnp.rad2deg(jax.vmap(single.mean_absolute_latitude)(paths)),
    'displacement_from_start_deg': jnp.rad2deg(jax.vmap(single.displacement)(paths)),
    'pairwise_gc_over_time_deg': jnp.rad2deg(single.pairwise_over_time(paths)),
    'resultant_over_time': single.resultant_over_time(paths),
  }


def maps(data: dict, meta: dict) -> Iterable[Check]:
  with jax.enable_x64(True):
    fixations, want = jnp.asarray(data['input/fixations_xyz']), group(data, 'output')
    shape = want['gt_map'].shape
    truth = saliency.vmf_map(fixations, *shape, np.deg2rad(meta['sigma_deg']))
    yield Check('gt_map', truth, want['gt_map'], 1e-8)
    yield Check('pixel_area_row', saliency.solid_angles(*shape)[:, 0], want['pixel_area_row'], 1e-12)
    yield Check('fix_index', saliency.pixel_index(fixations, *shape), want['fix_index'], 0)
    known = {
      'pred': jnp.asarray(data['input/pred']),
      'equator': saliency.equator(*shape, dtype=jnp.float64),
      'uniform': saliency.uniform(*shape, dtype=jnp.float64),
      'gt': truth,
    }

    @functools.partial(jax.jit, static_argnames='planar')
    def scores(x, planar):
      three = [f(x, truth, planar=planar) for f in (saliency.correlation, saliency.similarity, saliency.divergence)]
      rest = [f(x, fixations, planar=planar) for f in (saliency.auc, saliency.nss, saliency.information_gain)]
      return {'cc_sim_kl': jnp.stack(three), **dict(zip(('auc', 'nss', 'ig_over_equator'), rest, strict=True))}

    for name, x in known.items():
      for mode in ('', 'planar_'):
        for metric, value in scores(x, planar=bool(mode)).items():
          if f'{name}_{mode}{metric}' in want:
            yield Check(f'{name}_{mode}{metric}', value, want[f'{name}_{mode}{metric}'], 1e-8)


def shared_data() -> Path:
  root = os.environ.get('JAXPAPERS_SHARED') or Path(__file__).resolve().parents[3] / 'shared'
  return Path(root) / 'data' / 'vr_quality'


def real_stats(want: dict) -> Iterable[Check]:
  for label, tables in (
    ('csv', database.read_csv(str(shared_data()))),
    ('npz', database.read_npz(shared_data() / database.NPZ)),
  ):
    got = database_statistics.summary(tables) | {'pre_rotation_error_deg': rotation_errors(tables)}
    if label == 'csv':
      want_here = {key: value for key, value in want.items() if key != 'sources'}  # known to the npz only
    else:
      want_here = want
    yield from tree(label, got, want_here)


def tree(name: str, got: Any, want: Any) -> Iterable[Check]:
  """Every number of nested dictionaries and lists."""
  if isinstance(want, Mapping):
    for key, value in want.items():
      yield from tree(f'{name}/{key}', got[key], value)
  else:
    exact = isinstance(want, str | bool | int) or (isinstance(want, list) and isinstance(want[0], str))
    yield Check(name, got, want, 0 if exact else 1e-9, relative=not exact)


def rotation_errors(tables: database.Tables) -> dict[str, dict[str, float]]:
  """How far the published preprocessing leaves the starting viewpoint from the image centre, degrees."""
  errors = {}
  with jax.enable_x64(True):
    for start, name in enumerate('AB'):
      yaw, pitch = jnp.asarray(tables.start_yaw[:, start]), jnp.asarray(tables.start_pitch[:, start])
      found = [off_centre(yaw, sign * pitch, -pitch) for sign in (1, -1)]
      errors[name] = {
        'mean': float(found[0].mean()),
        'median': float(np.median(found[0])),
        'max': float(found[0].max()),
        'p95': float(np.percentile(found[0], 95)),
        'if_pitch_sign_opposite_mean': float(found[1].mean()),
      }
  return errors


def off_centre(yaw: jax.Array, pitch: jax.Array, latitude: jax.Array) -> np.ndarray:
  """Degrees between the image centre and where the start (yaw, latitude) lands, preprocessed with (yaw, pitch)."""
  theta, phi = -jnp.deg2rad(yaw), jnp.deg2rad(pitch)
  axis = jnp.stack([-jnp.sin(theta), jnp.cos(theta), jnp.zeros_like(theta)], axis=-1)
  turned = axis_rotation(axis, -phi) @ rotation_z(theta)
  start = unit_vector(jnp.deg2rad(yaw), jnp.deg2rad(latitude))
  centre = jnp.asarray([1.0, 0.0, 0.0])
  return np.asarray(jnp.rad2deg(angle_between(jnp.einsum('nij,nj->ni', turned, start), centre)))
