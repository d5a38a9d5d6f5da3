"""A trigger as files: the picture that an image file can hold, and the numbers that it really is.

    python -m jaxpapers.doorping.export WORKDIR --output FOLDER --scale 8

takes the triggers that a run's report wrote (`launch/evaluate.py` writes one for an unfinished run).
"""

import argparse
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxpapers.doorping import trigger as triggers
from jaxpapers.engine.errors import UserError

SUFFIX = '_trigger'


class Trigger(NamedTuple):
  """A trigger in a file.

  Attributes:
    trigger: float32 [height, width, channels], normalised, unclipped.
    mask: float32 [height, width, channels], 1 in the patch.
    mean: float32 [channels], of the normalisation.
    std: float32 [channels].
  """

  trigger: np.ndarray
  mask: np.ndarray
  mean: np.ndarray
  std: np.ndarray

  def pixels(self) -> np.ndarray:
    """uint8 [height, width, channels]: rounded and clipped to the pixel range, black outside the patch."""
    raw = (self.trigger * self.std + self.mean) * 255.0
    return np.where(self.mask > 0, np.clip(np.rint(raw), 0, 255), 0).astype(np.uint8)

  def sentence(self, name: str) -> str:
    """How far it is outside the pixel range, in words."""
    patch = np.where(self.mask > 0, self.trigger, np.nan)
    low, high = triggers.pixel_range(self.mean, self.std)
    ends = f'{np.nanmin(patch):.4g} to {np.nanmax(patch):.4g} normalised units'
    allowed = f'{low.min():.4g} to {high.max():.4g}'
    beyond = triggers.outside_range(self.trigger, self.mask, self.mean, self.std)
    # Rounding errors of normalising 255 are no excess.
    if beyond < 1e-5:
      return f'{name}: the raw trigger spans {ends} and lies inside the pixel range ({allowed}).'
    share = np.mean((self.trigger < low - 1e-5)[self.mask > 0] | (self.trigger > high + 1e-5)[self.mask > 0])
    return (
      f'{name}: the raw trigger spans {ends}; {share:.0%} of its values lie outside the pixel range ({allowed}), by up '
      f'to {beyond:.4g} units, {beyond / (high - low).min():.4g} times the whole range. No image file can hold it.'
    )


def export_trigger(
  folder: str | os.PathLike, name: str, trigger: np.ndarray, mask: np.ndarray, mean: np.ndarray, std: np.ndarray,
  scale: int = 1,
) -> str:  # fmt: skip
  """Writes NAME_trigger.png (uint8, clipped) and NAME_trigger.npz (raw), and says how far the raw one is out of range.

  Args:
    folder: must exist.
    name: of the files, without suffix.
    trigger: [1, height, width, channels] or [height, width, channels], normalised.
    mask: [height, width, channels], 1 in the patch.
    mean: [channels], of the normalisation.
    std: [channels].
    scale: pixels of the PNG per pixel.

  Returns:
    The sentence.

  Raises:
    UserError: for NaN or shapes that do not fit each other.
  """
  trigger, mask, mean, std = (np.asarray(x, np.float32) for x in (trigger, mask, mean, std))
  trigger = trigger[0] if trigger.ndim == 4 and len(trigger) == 1 else trigger
  if trigger.ndim != 3 or trigger.shape != mask.shape or mean.shape != std.shape or mean.shape != trigger.shape[-1:]:
    shapes = f'trigger {trigger.shape}, mask {mask.shape}, mean {mean.shape}, std {std.shape}'
    raise UserError(f'The shapes of {name} do not fit each other: {shapes}.')
  if not np.isfinite(trigger).all():
    raise UserError(f'The trigger {name} holds NaN or infinite values.')
  found = Trigger(trigger, mask, mean, std)
  pixels = found.pixels()
  picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
  picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
  path = Path(folder) / f'{name}{SUFFIX}'
  picture.save(path.with_suffix('.png'))
  np.savez_compressed(path.with_suffix('.npz'), **found._asdict(), pixels=pixels)
  return found.sentence(name)


def read_trigger(path: Path) -> Trigger:
  """What `export_trigger` wrote.

  Raises:
    UserError: if the file is damaged or something else.
  """
  try:
    with np.load(path) as file:
      return Trigger(*(file[field] for field in Trigger._fields))
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    raise UserError(f'{path} is damaged or holds no trigger: {error}.') from error


def main(argv: Sequence[str] | None = None) -> int:
  """The command; 0 when done, 2 with one sentence for what a person can put right."""
  parser = argparse.ArgumentParser(prog='python -m jaxpapers.doorping.export', description=__doc__.split('\n')[0])
  parser.add_argument('workdir', help='folder of a run with a report')
  parser.add_argument('--output', default='', help='folder for the files; without it they are only described')
  parser.add_argument('--scale', type=int, default=1, help='pixels of the PNG per pixel of the trigger')
  args = parser.parse_args(argv)
  try:
    paths = sorted(Path(args.workdir).expanduser().glob(f'report/*{SUFFIX}.npz'))
    if not paths:
      raise UserError(f'{args.workdir} has no report with triggers: run `launch/evaluate.py --workdir={args.workdir}`.')
    if args.scale < 1:
      raise UserError(f'--scale={args.scale} must be at least 1.')
    for path in paths:
      found, name = read_trigger(path), path.stem.removesuffix(SUFFIX)
      if args.output:
        Path(args.output).mkdir(parents=True, exist_ok=True)
        print(export_trigger(args.output, name, *found, scale=args.scale))
      else:
        print(found.sentence(name))
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return error.exit_code
  return 0


if __name__ == '__main__':
  sys.exit(main())
