"""The networks with official exits in eager PyTorch, written from the method's description under the authors' names."""

import types
from typing import Any

from jaxpapers.predictive_exit.exits import EPS, BofExits
from jaxpapers.predictive_exit.model import MultiExit
from jaxpapers.predictive_exit.vgg import POOL, ConvNet


def torch_network(torch: types.ModuleType, model: MultiExit, channels: int) -> Any:
  """A module: images [batch, channels, height, width] -> logits [batch, exits + 1, classes].

  Called with `with_exits=False` it is the plain network, [batch, 1, classes].

  Args:
    torch: the library.
    model: the network to build; its state dict is what `import_official` takes.
    channels: of the images.

  Raises:
    ValueError: for another network than a plain one with official exits.
  """
  net, exits = model.backbone, model.heads
  if not isinstance(net, ConvNet) or not isinstance(exits, BofExits) or net.hidden:
    raise ValueError('PyTorch builds plain networks with official exits: digits_bof, vgg19 and vgg19_stl10.')
  nn, functional = torch.nn, torch.nn.functional

  class Bof(nn.Module):
    """The logistic bag of features."""

    def __init__(self, inputs: int, horizon: int):
      super().__init__()
      self.codebook = nn.Conv2d(inputs, exits.codewords, 1)
      start = {'a': 1.0, 'c': 0.0, 'n1': exits.codewords, 'n2': horizon}
      for name, value in start.items():
        setattr(self, name, nn.Parameter(torch.full((1,), float(value))))
      self.horizon = horizon

    def forward(self, x: Any) -> Any:
      u = (torch.tanh(self.a * self.codebook(x) + self.c) + 1) / 2
      v = self.n1 * u / (u.sum(1, keepdim=True) + EPS)
      return (self.n2 * functional.avg_pool2d(v, self.horizon)).flatten(1)

  class Network(nn.Module):
    """Convolutions, pools, exits and the classifier."""

    def __init__(self):
      super().__init__()
      side, width, number, taps = model.image_size, channels, 0, iter(exits.layout)
      for unit, wanted in enumerate(net.widths):
        if wanted == POOL:
          side //= 2
        else:
          number += 1
          self.add_module(f'conv{number}', nn.Conv2d(width, wanted, 3, padding=1, bias=net.use_bias))
          self.add_module(f'bn{number}', nn.BatchNorm2d(wanted))
          width = wanted
        if unit in net.taps:
          self._exit(next(taps), width, side)
      self.fc = nn.Linear(width if net.average else width * side * side, net.classes)

    def _exit(self, spec: Any, width: int, side: int) -> None:
      if not hasattr(self, spec.bof):
        self.add_module(spec.bof, Bof(width, spec.horizon))
      values = exits.codewords * (side // spec.horizon) ** 2
      if spec.reduce and not hasattr(self, spec.reduce):
        self.add_module(spec.reduce, nn.Linear(values, exits.reduced))
      if not hasattr(self, spec.output):
        self.add_module(spec.output, nn.Linear(exits.reduced if spec.reduce else values, exits.classes))

    def forward(self, x: Any, with_exits: bool = True) -> Any:
      found, number, taps = [], 0, iter(exits.layout)
      for unit, width in enumerate(net.widths):
        if width == POOL:
          x = functional.max_pool2d(x, 2)
        else:
          number += 1
          x = functional.relu(getattr(self, f'bn{number}')(getattr(self, f'conv{number}')(x)))
        if with_exits and unit in net.taps:
          spec = next(taps)
          y = getattr(self, spec.bof)(x)
          y = getattr(self, spec.reduce)(y) if spec.reduce else y
          found.append(getattr(self, spec.output)(y))
      found.append(self.fc(x.mean((2, 3)) if net.average else x.flatten(1)))
      return torch.stack(found, 1)

  return Network()
