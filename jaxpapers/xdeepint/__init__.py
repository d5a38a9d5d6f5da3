"""xDeepInt: click-through prediction by polynomial interaction networks (arXiv 2301.01089).

The logit is an explicit polynomial of the embeddings; two FTRL optimizers select features and interactions by exact
zeros. Here: all depths in one matrix product, group FTRL on the rows of a batch alone and over sharded tables, exact
attribution of a logit to interaction orders, readers for Criteo, Avazu and iPinYou, and baselines on the same data.

    from jaxpapers import xdeepint
    fields = xdeepint.Fields(('site', 'device'), (1000, 20))
    model = xdeepint.XDeepInt(fields, size=16, pin=xdeepint.PinHead(layers=3, sub_spaces=4))
    variables = model.init(jax.random.key(0), ids)  # ids [batch, 2] int32, -1 missing
    logits = model.apply(variables, ids)

Names are loaded on first use: `prepare` and its workers need no JAX.
"""

import importlib

_WHERE = {
  'multi_head_pin': 'pin',
  'split_sub_spaces': 'pin',
  'combine_sub_spaces': 'pin',
  'output_logits': 'pin',
  'lift_kernel': 'pin',
  'order_contributions': 'orders',
  'field_contributions': 'orders',
  'GroupFtrl': 'optimizers',
  'GroupFtrlState': 'optimizers',
  'group_ftrl': 'optimizers',
  'group_ftrl_rows': 'optimizers',
  'group_ftrl_weights': 'optimizers',
  'sum_duplicates': 'optimizers',
  'ftrl': 'optimizers',
  'xdeepint_optimizer': 'optimizers',
  'Fields': 'embeddings',
  'take_rows': 'embeddings',
  'put_rows': 'embeddings',
  'XDeepInt': 'model',
  'PinHead': 'model',
  'MultiHeadPin': 'model',
  'FieldEmbedding': 'model',
  'row_sparse': 'training',
  'import_official': 'official',
  'export_official': 'official',
}
_RENAMED = {'polynomial_interaction': ('pin', 'pin')}  # `pin` is the module

__all__ = [*_WHERE, *_RENAMED]


def __getattr__(name: str):
  if name in _RENAMED:
    module, attribute = _RENAMED[name]
    return getattr(importlib.import_module(f'{__name__}.{module}'), attribute)
  if name not in _WHERE:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_WHERE[name]}'), name)
