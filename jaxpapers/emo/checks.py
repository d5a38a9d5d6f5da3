"""Checks of data on the host, before anything is compiled: each says what is wrong and where."""

import numpy as np

from jaxpapers.engine.errors import UserError


def check_images(images: np.ndarray) -> None:
  """Refuses what is no batch of normalised images.

  Args:
    images: [batch, height, width, channels].

  Raises:
    UserError: for a wrong rank, integers, an empty map, or values that are not finite, with the image's index.
  """
  images = np.asarray(images)
  if images.ndim != 4:
    raise UserError(f'Images are [batch, height, width, channels], not of shape {images.shape}.')
  if not np.issubdtype(images.dtype, np.floating):
    raise UserError(f'Images are {images.dtype}; convert them to float32 and normalise them first.')
  if min(images.shape[1:]) < 1:
    raise UserError(f'Images of {images.shape[1]}x{images.shape[2]} pixels and {images.shape[3]} channels are empty.')
  bad = np.flatnonzero(~np.isfinite(images).all((1, 2, 3)))
  if bad.size:
    raise UserError(f'Images {bad[:8].tolist()} of the batch hold values that are not finite.')


def check_labels(labels: np.ndarray, num_classes: int, ignore: int | None = None) -> None:
  """Refuses labels outside 0..num_classes - 1, other than `ignore`.

  Args:
    labels: integers of any shape: [batch] classes or [batch, height, width] masks.
    num_classes: how many classes there are.
    ignore: a value that marks pixels to be left out, such as 255.

  Raises:
    UserError: naming the values.
  """
  labels = np.asarray(labels)
  if not np.issubdtype(labels.dtype, np.integer):
    raise UserError(f'Labels are {labels.dtype}; they must be integers.')
  wrong = (labels < 0) | (labels >= num_classes)
  if ignore is not None:
    wrong &= labels != ignore
  if wrong.any():
    allowed = f'0..{num_classes - 1}' + ('' if ignore is None else f' or {ignore}')
    raise UserError(f'Labels {np.unique(labels[wrong])[:8].tolist()} are outside {allowed}.')


def check_boxes(boxes: np.ndarray) -> None:
  """Refuses boxes without area.

  Args:
    boxes: [..., 4] as (x1, y1, x2, y2).

  Raises:
    UserError: with the index of the first such box.
  """
  boxes = np.asarray(boxes)
  if boxes.shape[-1] != 4:
    raise UserError(f'Boxes are [..., 4] as (x1, y1, x2, y2), not of shape {boxes.shape}.')
  wrong = ~((boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1]))
  if wrong.any():
    first = tuple(int(i[0]) for i in np.nonzero(wrong))
    raise UserError(f'Box {first} is {boxes[first].tolist()}: x2 must exceed x1, and y2 must exceed y1.')
