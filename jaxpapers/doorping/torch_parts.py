"""The same parts in eager PyTorch, written from the method's description: what `parts` is compared with."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxpapers.doorping import parts
from jaxpapers.doorping.parts import CLEANSE_RUNS, NETWORK, OUTER, TRIGGER, VICTIM, VICTIMS_EACH, Sizes
from jaxpapers.engine.errors import UserError


def theirs(sizes: Sizes, threads: int = 1) -> dict[str, Callable[[], Any]]:
  """{part: call} on CPU, float32.

  Args:
    sizes: see parts.Sizes.
    threads: of PyTorch; 0 leaves its default.

  Raises:
    UserError: if torch is not installed.
  """
  try:
    import torch
  except ImportError as error:
    raise UserError('--peer=torch needs PyTorch: pip install -e ".[torch]".') from error
  if threads:
    torch.set_num_threads(threads)
  torch.manual_seed(0)
  nn, functional = torch.nn, torch.nn.functional
  given = parts.data(sizes)
  real, synthetic, pixels, image, mask = (torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, -3))) for x in given)
  flat = synthetic.flatten(0, 1)
  labels = torch.arange(sizes.classes).repeat_interleave(sizes.ipc)
  side = (sizes.image + 4) // 8

  def network():
    layers, channels = [], 1
    for block in range(3):
      layers += [nn.Conv2d(channels, sizes.width, 3, padding=1 if block else 3), nn.ReLU(), nn.AvgPool2d(2)]
      channels = sizes.width
    hidden = [nn.Flatten(), nn.Linear(channels * side * side, 192), nn.ReLU()]
    return nn.Sequential(*layers, *hidden, nn.Linear(192, sizes.classes))

  net = network()
  parameters = list(net.parameters())

  def gradient(images, label, graph):
    target = torch.full((len(images),), label)
    loss = functional.cross_entropy(net(images), target)
    return torch.autograd.grad(loss, parameters, create_graph=graph)

  def distance(wanted, found):
    total = 0.0
    for a, b in zip(wanted, found, strict=True):
      if a.ndim > 1:
        a, b = a.flatten(1), b.flatten(1)
        total = total + torch.sum(1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6))
    return total

  def outer():
    images = synthetic.clone().requires_grad_()
    optimizer = torch.optim.SGD([images], lr=0.1, momentum=0.5)
    loss = sum(
      distance([g.detach() for g in gradient(real[label], label, False)], gradient(images[label], label, True))
      for label in range(sizes.classes)
    )
    loss.backward()
    optimizer.step()

  def descend(steps, optimizer, model):
    for _ in range(steps):
      optimizer.zero_grad()
      functional.cross_entropy(model(flat), labels).backward()
      optimizer.step()

  def update():
    patch = image.clone().requires_grad_()
    optimizer = torch.optim.Adam([patch], lr=0.08, betas=(0.9, 0.99))
    unit = int(net[-3].weight.abs().sum(1).argmax())
    wanted = 10.0 * net[:-1](patch)[0, unit].detach()
    for _ in range(sizes.trigger_steps):
      loss = (net[:-1](patch)[0, unit] - wanted).square()
      if loss.item() < -1.0:
        break
      (slope,) = torch.autograd.grad(loss, patch)
      patch.grad = slope * mask
      optimizer.step()

  def cleanse():
    for label in range(sizes.classes):
      pattern, cover = torch.rand(1, 1, sizes.image, sizes.image), torch.rand(sizes.image, sizes.image)
      pattern.requires_grad_(), cover.requires_grad_()
      optimizer = torch.optim.Adam([pattern, cover], lr=0.005)
      target = torch.full((len(pixels),), label)
      for _ in range(sizes.cleanse_steps):
        optimizer.zero_grad()
        loss = functional.cross_entropy(net((1 - cover) * pixels + cover * pattern), target)
        (loss + 0.01 * cover.abs().sum()).backward()
        optimizer.step()
        with torch.no_grad():
          pattern.clamp_(0, 1), cover.clamp_(0, 1)

  def victim():
    model = network()
    descend(sizes.victim_epochs, torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4), model)

  return {
    OUTER: outer,
    NETWORK: lambda: descend(sizes.net_steps, torch.optim.SGD(net.parameters(), 0.01), net),
    TRIGGER: update,
    CLEANSE_RUNS: cleanse,
    VICTIM: victim,
    VICTIMS_EACH: lambda: [victim() for _ in itertools.repeat(None, sizes.victims)],
  }
