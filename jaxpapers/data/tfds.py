"""TensorFlow Datasets read from ArrayRecord files, without TensorFlow."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxpapers.engine.errors import UserError


class TfdsSource:
  """Random access to a prepared dataset; made by `tfds_source`."""

  def __init__(self, source: Sequence[Mapping[str, Any]], what: str, hint: str, keys: Sequence[str], named: bool):
    """Wraps a tfds data source; `what` names it and `hint` says what to do when it cannot be read."""
    self._source, self._what, self._hint, self._keys, self._named = source, what, hint, tuple(keys), named

  def __len__(self) -> int:
    """Number of examples."""
    return len(self._source)

  @property
  def features(self) -> Mapping[str, Any]:
    """What tfds says of each key, e.g. features['label'].num_classes."""
    return self._source.dataset_info.features

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Example `index`: arrays, Python ints for class labels, bytes for text and undecoded images."""
    try:
      example = self._source[int(index)]
    except (RuntimeError, OSError, ImportError, ValueError) as error:
      raise UserError(f'Cannot read example {index} of {self._what}: {_first_line(error)}. {self._hint}') from error
    if self._keys:
      missing = [key for key in self._keys if key not in example]
      if missing:
        raise UserError(f'{self._what} has no key {missing[0]!r}; it has {", ".join(sorted(example))}.')
      example = {key: example[key] for key in self._keys}
    return {**example, 'name': f'{self._what} example {index}'} if self._named else dict(example)


def tfds_source(
  name: str,
  split: str,
  data_dir: str | os.PathLike | None = None,
  decoders: Mapping[str, Any] | None = None,
  *,
  decode_images: bool = True,
  keys: Sequence[str] = (),
) -> TfdsSource:
  """Opens a split of a prepared TFDS dataset; downloads nothing.

  Args:
    name: for instance 'imagenet2012', 'coco/2017', 'mnist:3.0.1'.
    split: for instance 'train', 'validation[:10%]'.
    data_dir: where datasets are prepared; None is TFDS_DATA_DIR or ~/tensorflow_datasets.
    decoders: as for tfds.data_source.
    decode_images: False hands out the encoded bytes of the feature `image` and a `name` for messages, so that workers
      decode only what they need, at a reduced size.
    keys: features to keep; none keeps all.

  Raises:
    UserError: for an unknown name, a dataset that is not prepared as array_record, or an unknown split.
  """
  # Loading tfds takes a second or two, which only its users should pay.
  import tensorflow_datasets as tfds

  where = os.path.expanduser(os.fspath(data_dir or os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')))
  dataset = name.partition('/')[0].partition(':')[0]
  hint = (
    f'Prepare it once, on any machine, with `tfds build {name} --file_format=array_record --data_dir={where}` '
    '(that step may need TensorFlow; training does not).'
  )
  if not decode_images:
    decoders = {**(decoders or {}), 'image': tfds.decode.SkipDecoding()}
  try:
    source = tfds.data_source(name, split=split, data_dir=where, decoders=decoders, download=False)
  except tfds.core.registered.DatasetNotFoundError as error:
    if _prepared(where, dataset):
      raise UserError(f'Cannot read {name} in {where}: {_first_line(error)}. {hint}') from error
    raise UserError(f'TFDS knows no dataset {dataset!r}, and {where} has none of that name.') from error
  except Exception as error:
    if not _prepared(where, dataset):
      raise UserError(f'The dataset {name} (split {split}) is not in {where}. {hint}') from error
    raise UserError(f'Cannot open {name} (split {split}) in {where}: {_first_line(error)}. {hint}') from error
  return TfdsSource(source, f'{name} ({split})', hint, keys, not decode_images)


def _prepared(where: str, dataset: str) -> bool:
  return (epath.Path(where) / dataset).is_dir()


def _first_line(error: BaseException) -> str:
  text = str(error).strip().splitlines()
  return text[0].rstrip('.') if text else type(error).__name__
