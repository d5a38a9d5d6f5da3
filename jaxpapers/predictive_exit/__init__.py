"""Predictive Exit: early exits that are forecast, and the energy that they save (AAAI 2023, arXiv 2206.04685).

The official networks, exit layers, criterion and prediction engine; and, as extensions, calibrated policies, an energy
model with deadlines that are never missed, and an optimal joint policy. Policies work on any table of logits.

    from jaxpapers import predictive_exit as px
    model = px.vgg19(classes=10)
    variables = model.init(jax.random.key(0), images)  # [batch, 32, 32, 3]
    logits = model.apply(variables, images)  # [batch, 21, 10]: 20 exits and the classifier
    walk = px.official_walk(logits, thresholds, beta=15.0, start=8)  # walk.exit, walk.visited, walk.label

Names are loaded on first use.
"""

import importlib

_NAMES = {
  'exits': ('bag_of_features', 'LogisticBof', 'BofExit', 'BofExits', 'PooledExits', 'pooled_vector'),
  'model': (
    *('MultiExit', 'Classifier', 'classifier', 'network', 'vgg19', 'vgg19_stl10', 'resnet34'),
    *('pooled_vgg19', 'pooled_resnet34', 'small_cnn', 'digits_bof'),
  ),
  'prediction': (
    *('activation_level', 'confidence_ratio', 'forecast_steps', 'official_walk', 'walk', 'accuracy_forward'),
    *('official_score', 'forecast_errors'),
  ),
  'thresholds': ('batch_activation', 'activation_thresholds'),
  'costs': ('work', 'official_book', 'place_exits', 'parameter_count'),
  'early_exit': ('leave_early', 'leave_early_batch'),
  'official': ('import_official', 'export_official'),
  'tables': ('ExitTable', 'Costs'),
  'scores': ('max_prob', 'margin', 'neg_entropy', 'logit_margin', 'fit_temperatures'),
  'policies': ('Walk', 'classic', 'predictive', 'patience', 'start_exit', 'walk_macs', 'plain_macs'),
  'energy': ('cost_tables', 'plain_time', 'plain_energy', 'deadline', 'unit_time', 'unit_energy'),
  'platforms': ('platform', 'read_platform', 'calibrate_platform'),
  'schedules': ('enumerate_schedules', 'plan', 'lagrangian_bound'),
  'simulate': ('deadline_safe', 'stretch'),
  'mdp': ('chain', 'bellman'),
  'engines': ('fit_table', 'table_steps', 'fit_ramp', 'ramp_steps', 'fit_linear', 'linear_steps', 'next_steps'),
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}
_RENAMED = {'simulate_walk': ('simulate', 'simulate')}  # `simulate` is the module

__all__ = [*_WHERE, *_RENAMED]


def __getattr__(name: str):
  if name in _RENAMED:
    module, attribute = _RENAMED[name]
    return getattr(importlib.import_module(f'{__name__}.{module}'), attribute)
  if name not in _WHERE:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_WHERE[name]}'), name)
