"""Frames of panoramic videos: decoded files (optional extra) or folders of pre-extracted pictures."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxpapers.engine.errors import UserError

KEYFRAMES = 15  # the published preprocessing keeps one frame per second and repeats the last to reach so many
PICTURES = ('.png', '.jpg', '.jpeg')


def keyframes(path: str | os.PathLike, size: tuple[int, int] = (512, 1024), least: int = KEYFRAMES) -> np.ndarray:
  """One frame per second of a video file, or all pictures of a folder of extracted frames in the order of their names.

  Source: the authors' preprocessing.

  Args:
    path: a video file (needs imageio with PyAV) or a folder of .png or .jpg.
    size: (height, width) to which frames are resized, bilinear.
    least: the last frame is repeated to reach so many.

  Returns:
    [frames, height, width, 3] uint8 RGB.

  Raises:
    UserError: if the path does not exist, holds no frames or cannot be decoded, or PyAV is not installed.
  """
  path = Path(path)
  if not path.exists():
    raise UserError(f'{path} does not exist.')
  images = [_resized(image, size) for image in (_pictures(path) if path.is_dir() else _decoded(path))]
  if not images:
    raise UserError(f'{path} holds no frames.')
  return np.stack(images + images[-1:] * (least - len(images)))


def condition_frames(frames: np.ndarray, seconds: int) -> np.ndarray:
  """The seven frames of a condition, as the published loader takes them from `keyframes`. Source: the authors' loader.

  Args:
    frames: [13 or more, ...], one per second.
    seconds: 7 takes frames 0, 1, ..., 6; 15 takes 0, 2, ..., 12.

  Raises:
    ValueError: for other seconds or too few frames.
  """
  if seconds not in (7, 15) or len(frames) < 13:
    raise ValueError(f'Conditions are 7 or 15 seconds of 13 frames at least, not {seconds} of {len(frames)}.')
  return frames[:7] if seconds == 7 else frames[:13:2]


def _decoded(path: Path) -> Iterator[np.ndarray]:
  try:
    import av  # noqa: F401
    import imageio.v3 as iio
  except ImportError as error:
    raise UserError(
      f'Decoding {path.name} needs imageio with PyAV, pip install "imageio[pyav]", or a folder of extracted frames.'
    ) from error
  try:
    rate = round(iio.immeta(path, plugin='pyav')['fps'])
    for index, frame in enumerate(iio.imiter(path, plugin='pyav')):
      if index % rate == 0:
        yield frame
  except (OSError, ValueError, KeyError, IndexError, ZeroDivisionError) as error:
    reason = str(error).rstrip('.')
    raise UserError(f'{path} cannot be decoded as a video: {reason}.') from error


def _pictures(folder: Path) -> Iterator[np.ndarray]:
  for file in sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES):
    try:
      with Image.open(file) as image:
        yield np.asarray(image.convert('RGB'))
    except (OSError, UnidentifiedImageError) as error:
      raise UserError(f'{file} cannot be read as a picture: {error}.') from error


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  if image.shape[:2] == size:
    return image
  return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
