"""For someone who has the authors' weights: a state dict in an .npz becomes Flax variables, strictly.

python docs/examples/weights.py
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers import doorping
from jaxpapers.engine.weight_files import read_weights


def main() -> None:
  """Writes a file with PyTorch's names and layouts, reads it back, and shows what a wrong one says."""
  model = doorping.ConvNet(classes=10, width=16)
  images = jax.random.normal(jax.random.key(0), (2, 16, 16, 1))
  variables = model.init(jax.random.key(1), images)
  with tempfile.TemporaryDirectory() as folder:
    path = str(Path(folder) / 'net.npz')
    np.savez(path, **doorping.export_official(variables, model))
    state = read_weights(path)
  for name, array in state.items():
    print(f'{name:24} {array.shape}')
  imported = doorping.import_official(state, model, (16, 16, 1))
  print('same logits:', bool(jnp.array_equal(model.apply(imported, images), model.apply(variables, images))))
  state['classifier.weight'] = state.pop(next(iter(state)))
  try:
    doorping.import_official(state, model, (16, 16, 1))
  except ValueError as error:
    print('refused:', error)


if __name__ == '__main__':
  main()
