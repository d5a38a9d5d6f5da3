"""Sources in memory and in memory-mapped files: {key: array} whose rows are the examples."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxpapers.engine.errors import UserError

MANIFEST = 'arrays.json'


class ArraySource:
  """Examples are the rows of equally long arrays."""

  def __init__(self, arrays: Mapping[str, np.ndarray]):
    """Takes {key: [examples, ...]}; the arrays are not copied.

    Raises:
      UserError: naming the lengths, when they differ.
    """
    self.arrays = {key: np.asarray(array) for key, array in arrays.items()}
    lengths = {key: len(array) if array.ndim else None for key, array in self.arrays.items()}
    if not lengths or None in lengths.values() or len(set(lengths.values())) > 1:
      raise UserError(f'An ArraySource needs arrays with equally many rows under every key, not {lengths}.')
    self._length = next(iter(lengths.values()))

  def __len__(self) -> int:
    """Number of examples."""
    return self._length

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Example `index`."""
    return {key: array[index] for key, array in self.arrays.items()}

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """{key: [batch, ...]} of the examples `indices` [batch]."""
    return {key: array[indices] for key, array in self.arrays.items()}


class MemmapSource(ArraySource):
  """Examples are the rows of .npy files that `write_memmap` wrote, read from disk as they are needed."""

  def __init__(self, folder: str | os.PathLike):
    """Opens every array of `folder`.

    Raises:
      UserError: for a missing folder, an unfinished writing, a missing, truncated or altered file.
    """
    self.folder = os.fspath(folder)
    super().__init__(_open_arrays(self.folder))

  def __getstate__(self) -> dict[str, Any]:
    """The folder alone: a worker process maps the files itself instead of receiving their contents."""
    return {'folder': self.folder}

  def __setstate__(self, state: dict[str, Any]):
    """Maps the files again."""
    self.__init__(state['folder'])


def write_memmap(
  folder: str | os.PathLike,
  arrays: Mapping[str, np.ndarray] | Iterable[Mapping[str, np.ndarray]],
  length: int | None = None,
) -> None:
  """Writes arrays for MemmapSource: `<key>.npy` each and, last, a list of what belongs to the folder.

  Args:
    folder: made if needed; an earlier set of arrays in it is replaced.
    arrays: {key: [examples, ...]}, or chunks of it, in order, that need not fit into memory together.
    length: number of examples over all chunks; needed for chunks only.

  Raises:
    UserError: for chunks that do not add up to `length` or differ in keys, shapes or dtypes.
  """
  if isinstance(arrays, Mapping):
    length = ArraySource(arrays).__len__()
    arrays = [arrays]
  elif length is None:
    raise UserError('write_memmap needs `length`, the number of examples, to write chunks.')
  os.makedirs(folder, exist_ok=True)
  manifest = os.path.join(folder, MANIFEST)
  if os.path.exists(manifest):
    os.remove(manifest)  # until the new one stands, the folder counts as unfinished
  files: dict[str, np.memmap] = {}
  done = 0
  for number, chunk in enumerate(arrays):
    chunk = ArraySource(chunk)
    if number == 0:
      for key, array in chunk.arrays.items():
        path = os.path.join(folder, _file_name(key))
        shape = (length, *array.shape[1:])
        files[key] = np.lib.format.open_memmap(path, mode='w+', dtype=array.dtype, shape=shape)
    here = {key: (array.shape[1:], array.dtype) for key, array in chunk.arrays.items()}
    wanted = {key: (file.shape[1:], file.dtype) for key, file in files.items()}
    if here != wanted:
      raise UserError(f'Chunk {number} for {folder} holds {here}, the chunks before it {wanted}.')
    if done + len(chunk) > length:
      raise UserError(f'The chunks for {folder} hold more than the {length} examples announced.')
    for key, array in chunk.arrays.items():
      files[key][done : done + len(chunk)] = array
    done += len(chunk)
  if done != length:
    raise UserError(f'The chunks for {folder} hold {done} examples, not the {length} announced.')
  for file in files.values():
    file.flush()
  with open(manifest + '.tmp', 'w') as out:
    json.dump({key: {'shape': file.shape, 'dtype': file.dtype.str} for key, file in files.items()}, out, indent=2)
  os.replace(manifest + '.tmp', manifest)


def _file_name(key: str) -> str:
  if not key or key.startswith('.') or '/' in key or os.sep in key:
    raise UserError(f'The key {key!r} cannot be a file name; use letters, digits and underscores.')
  return f'{key}.npy'


def _open_arrays(folder: str) -> dict[str, np.ndarray]:
  """{key: memory-mapped array}, each checked against the list in the folder."""
  if not os.path.isdir(folder):
    raise UserError(f'No folder {folder}; it should hold arrays written by write_memmap.')
  try:
    with open(os.path.join(folder, MANIFEST)) as file:
      manifest = json.load(file)
  except FileNotFoundError:
    raise UserError(
      f'{folder} has no {MANIFEST}: no arrays were written there, or the writing was interrupted.'
    ) from None
  except ValueError:
    raise UserError(f'{os.path.join(folder, MANIFEST)} is damaged; write the arrays again.') from None
  arrays = {}
  for key, wanted in manifest.items():
    path = os.path.join(folder, _file_name(key))
    try:
      arrays[key] = np.load(path, mmap_mode='r', allow_pickle=False)
    except FileNotFoundError:
      raise UserError(f'{path} is missing; {MANIFEST} lists it.') from None
    except (ValueError, EOFError, OSError) as error:
      size = os.path.getsize(path)
      raise UserError(f'{path} is truncated or damaged ({size:,} bytes); write the arrays again. ({error})') from None
    if arrays[key].shape != tuple(wanted['shape']) or arrays[key].dtype.str != wanted['dtype']:
      raise UserError(
        f'{path} holds {arrays[key].dtype} {arrays[key].shape}, '
        f'but {MANIFEST} says {wanted["dtype"]} {tuple(wanted["shape"])}.'
      )
  return arrays


class ImageFolder:
  """`root/split/<class>/<image>`: the layout of ImageNet's folders; a class's index is its alphabetical position."""

  EXTENSIONS = ('.jpeg', '.jpg', '.png')

  def __init__(self, root: str | os.PathLike, split: str):
    """Lists the folder; hidden files are skipped.

    Raises:
      UserError: for a missing or empty folder, a class without images, or a file that is no image.
    """
    self.root = epath.Path(root) / split
    layout = f'expected {self.root}/<class>/<image>{{{",".join(self.EXTENSIONS)}}}'
    if not self.root.is_dir():
      raise UserError(f'No folder {self.root}; {layout}.')
    visible = sorted((entry for entry in self.root.iterdir() if not entry.name.startswith('.')), key=lambda e: e.name)
    folders = [entry for entry in visible if entry.is_dir()]
    if len(folders) < len(visible):
      stray = next(entry for entry in visible if entry not in folders)
      raise UserError(f'{stray} lies beside the class folders; {layout}.')
    if not folders:
      raise UserError(f'{self.root} is empty; {layout}.')
    self.classes = tuple(folder.name for folder in folders)
    self.names, labels = [], []
    for label, folder in enumerate(folders):
      names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith('.'))
      if not names:
        raise UserError(f'The class folder {folder} is empty; {layout}.')
      for name in names:
        if not name.lower().endswith(self.EXTENSIONS):
          raise UserError(
            f'{folder / name} is no image ({", ".join(self.EXTENSIONS)}); remove it from the class folder.'
          )
        self.names.append(f'{folder.name}/{name}')
        labels.append(label)
    self.labels = np.asarray(labels, np.int32)

  def __len__(self) -> int:
    """Number of images."""
    return len(self.names)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """{'image': encoded bytes, 'label': int32, 'name': path, for messages}."""
    path = self.root / self.names[index]
    return {'image': path.read_bytes(), 'label': self.labels[index], 'name': str(path)}
