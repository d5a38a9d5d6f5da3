"""RELIANT: fair knowledge distillation for graph neural networks (SDM 2023, arXiv 2301.01150).

A teacher GNN is distilled into a student whose input has two learnable columns, proxies of bias: individual proxies
are trained to make the student unfair, the student to be fair without them. Here: exact graph layers on
`jraph.GraphsTuple`, both distillation frameworks (CPF, GraphAKD) for any pair of models, official names, and seeds and
weights of the gap as one program.

    from jaxpapers import reliant
    problem = reliant.make_problem(x, senders, receivers, labels, sensitive, splits)
    student = reliant.plp()
    training = reliant.cpf_training(student, reliant.coupled_adam(0.01, 0.01), classes=2, nodes=len(x),
                                    inputs=reliant.Input('learned', 'append'), selection=reliant.Selection())

Names are loaded on first use.
"""

import importlib

_WHERE = {
  'symmetric_edges': 'graph',
  'make_graph': 'graph',
  'gcn_convolution': 'layers',
  'sage_convolution': 'layers',
  'gat_convolution': 'layers',
  'appnp_propagation': 'layers',
  'propagate': 'layers',
  'propagate_both_in': 'layers',
  'label_propagation': 'propagation',
  'averaged_labels': 'propagation',
  'Model': 'model',
  'Output': 'model',
  'gcn': 'model',
  'sage': 'model',
  'gat': 'model',
  'appnp': 'model',
  'sgc': 'model',
  'mlp': 'model',
  'logistic_regression': 'model',
  'sgc_student': 'model',
  'plp': 'model',
  'soft_step': 'fairness',
  'gap': 'fairness',
  'group_contrast': 'fairness',
  'initial_proxies': 'proxies',
  'fixed_proxies': 'proxies',
  'mean_proxies': 'proxies',
  'add_proxies': 'proxies',
  'Problem': 'problem',
  'Splits': 'problem',
  'make_problem': 'problem',
  'Input': 'training',
  'Knobs': 'training',
  'Selection': 'selection',
  'Training': 'training',
  'coupled_adam': 'training',
  'teacher_training': 'training',
  'cpf_training': 'training',
  'akd_training': 'training',
  'student_outputs': 'training',
  'targets_of': 'training',
  'Sampler': 'sampling',
  'statistical_parity_gap': 'metrics',
  'equal_opportunity_gap': 'metrics',
  'import_official': 'official',
  'export_official': 'official',
}

__all__ = list(_WHERE)


def __getattr__(name: str):
  if name not in _WHERE:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_WHERE[name]}'), name)
