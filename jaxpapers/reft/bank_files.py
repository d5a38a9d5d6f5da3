"""Outlined images from files for a bank of support, and pictures of what a bank finds."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from jaxpapers.engine.errors import UserError
from jaxpapers.reft import inference
from jaxpapers.reft.bank import SupportBank
from jaxpapers.reft.model import RefT


class Network(NamedTuple):
  """A trained network with what its images need.

  Attributes:
    model: the network.
    variables: its collections.
    side: images are fitted into side x side.
    normalise: uint8 RGB images to the network's input.
    names: of its classes.
  """

  model: RefT
  variables: dict
  side: int
  normalise: Callable
  names: tuple[str, ...]


def read_image(path: str, side: int) -> tuple[np.ndarray, tuple[int, int]]:
  """(uint8 [side, side, 3], (height, width) of the part that the image covers, top left).

  Raises:
    UserError: naming a file that cannot be read.
  """
  image = _open(path).convert('RGB')
  covered = _fitted(image.size, side)
  canvas = np.zeros((side, side, 3), np.uint8)
  canvas[: covered[0], : covered[1]] = np.asarray(image.resize(covered[::-1], Image.Resampling.BILINEAR))
  return canvas, covered


def read_mask(path: str, side: int, original: tuple[int, int]) -> np.ndarray:
  """[side, side] bool: what is not black in a mask file of the image's size (width, height).

  Raises:
    UserError: naming a file that cannot be read, is of another size than its image, or marks nothing.
  """
  mask = _open(path).convert('L')
  if mask.size != original:
    raise UserError(f'{path} is {mask.size[0]}x{mask.size[1]}, its image {original[0]}x{original[1]}.')
  covered = _fitted(mask.size, side)
  canvas = np.zeros((side, side), bool)
  small = mask.point(lambda value: 255 if value else 0).resize(covered[::-1], Image.Resampling.BOX)
  canvas[: covered[0], : covered[1]] = np.asarray(small) >= 128
  if not canvas.any():
    raise UserError(f'{path} marks nothing, or less than a pixel at {side}x{side}.')
  return canvas


def _open(path):
  try:
    return Image.open(path)
  except OSError as error:
    raise UserError(f'{path} cannot be read as an image: {error}.') from error


def _fitted(size, side):
  """(height, width) of an image of (width, height) that just fits in side x side."""
  factor = side / max(size)
  return max(1, round(size[1] * factor)), max(1, round(size[0] * factor))


def add_class(
  bank: SupportBank, network: Network, name: str, images: Sequence[str], masks: Sequence[str]
) -> SupportBank:
  """The bank with a class from image files and their masks, in the same order.

  Raises:
    UserError: for files that do not fit, or a bank that is full.
  """
  if len(images) != len(masks):
    raise UserError(f'{len(images)} images but {len(masks)} masks: one mask for each image.')
  pictures, outlines = [], []
  for image, mask in zip(images, masks, strict=True):
    canvas, covered = read_image(image, network.side)
    shown = np.array(network.normalise(canvas))
    shown[covered[0] :] = 0.0
    shown[:, covered[1] :] = 0.0
    pictures.append(shown)
    outlines.append(read_mask(mask, network.side, _open(image).size))
  try:
    return bank.extend(network.model, network.variables, name, np.stack(pictures), np.stack(outlines))
  except ValueError as error:
    raise UserError(str(error)) from error


def find(bank: SupportBank, network: Network, path: str, threshold: float) -> list[tuple[str, float, np.ndarray]]:
  """(class, score, mask [height, width] at the image's size) of one image, by falling score, from one forward pass.

  A query tells its best class alone.

  Raises:
    UserError: for a file that cannot be read, or an empty bank.
  """
  canvas, covered = read_image(path, network.side)
  shown = np.array(network.normalise(canvas))
  shown[covered[0] :] = 0.0
  shown[:, covered[1] :] = 0.0
  try:
    found = bank.predict(network.model, network.variables, shown[None])
  except ValueError as error:
    raise UserError(str(error)) from error
  told = jax.device_get(inference.query_masks(found.logits[-1], found.masks[-1], (network.side, network.side)))
  named = np.asarray([bool(name) for name in bank.names]) & np.asarray(bank.counts > 0)
  scores = np.where(named, told.scores[0], 0.0)
  size = _open(path).size
  result = []
  for query in np.argsort(-scores.max(axis=-1)):
    label = int(scores[query].argmax())
    if scores[query, label] < threshold:
      break
    part = Image.fromarray(told.masks[0, query, : covered[0], : covered[1]])
    result.append((bank.names[label], float(scores[query, label]), np.asarray(part.resize(size))))
  return result


def draw(path: str, found: Sequence[tuple[str, float, np.ndarray]], out: str) -> None:
  """Writes the image with coloured masks, classes and scores."""
  import matplotlib.pyplot as plt

  figure, axis = plt.subplots(figsize=(6, 6), layout='constrained')
  axis.imshow(np.asarray(_open(path).convert('RGB')))
  for index, (name, score, mask) in enumerate(found):
    colour = f'C{index % 10}'
    if mask.any() and not mask.all():
      axis.contour(mask, levels=[0.5], colors=[colour])
    if mask.any():
      y, x = np.argwhere(mask)[0]
      axis.text(x, y, f'{name} {score:.2f}', color='white', backgroundcolor=colour, fontsize=8)
  axis.set_axis_off()
  figure.savefig(out, dpi=120)
  plt.close(figure)
