"""A TensorFlow Datasets builder of nuScenes keyframes, which TFDS lacks; TensorFlow itself is not needed.

A record holds all that a detector wants of one keyframe, with its sweeps already in one cloud: where the set lies in a
bucket, one read replaces seventeen.

python -m jaxpapers.cmt.tfds_builder gs://bucket/tfds --root /data/nuscenes --version v1.0-trainval
"""

import argparse
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxpapers import data
from jaxpapers.cmt.data import detection_objects
from jaxpapers.cmt.nuscenes import Frame, NuScenes
from jaxpapers.cmt.splits import splits_of
from jaxpapers.cmt.sweeps import aggregate, picture_bytes
from jaxpapers.cmt.tables import CAMERAS
from jaxpapers.data import image as image_ops
from jaxpapers.engine.errors import UserError

SWEEPS = 10


class NuscenesFrames(tfds.core.GeneratorBasedBuilder):
  """Keyframes of one version of nuScenes; its splits are those of the official kit that belong to the version."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, *, dataset: NuScenes, **options: Any):
    """Binds the tables that are read; `options` are those of every builder, such as `data_dir`."""
    self._dataset = dataset
    super().__init__(config=tfds.core.BuilderConfig(name=config_name(dataset.version)), **options)

  def _info(self) -> tfds.core.DatasetInfo:
    features = tfds.features

    def exact(*shape):
      # Poses in the world need more digits than the float32 of a record's numbers.
      return features.Tensor(shape=shape, dtype=np.float64, encoding=features.Encoding.BYTES)

    cameras = {name: features.Image(shape=(None, None, 3), encoding_format='jpeg') for name in CAMERAS}
    return tfds.core.DatasetInfo(
      builder=self,
      description='nuScenes keyframes with six pictures and the LiDAR cloud of half a second, in the LiDAR frame.',
      homepage='https://www.nuscenes.org',
      features=features.FeaturesDict(
        {
          'token': features.Text(),
          'points': features.Tensor(shape=(None, 5), dtype=np.float32, encoding=features.Encoding.BYTES),
          'lidar2cam': exact(len(CAMERAS), 4, 4),
          'intrinsics': exact(len(CAMERAS), 3, 3),
          'lidar2ego': exact(4, 4),
          'ego2global': exact(4, 4),
          'boxes': features.Tensor(shape=(None, 9), dtype=np.float32, encoding=features.Encoding.BYTES),
          'labels': features.Tensor(shape=(None,), dtype=np.int32, encoding=features.Encoding.BYTES),
          **cameras,
        }
      ),
    )

  def _split_generators(self, manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
    del manager  # nothing is downloaded: the licence asks everyone to do so
    present = splits_of(tuple(self._dataset.tables.scenes), self._dataset.version)
    return {split: self._generate_examples(split) for split in present}

  def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for token in self._dataset.tokens(split):
      yield token, example(self._dataset.frame(token, SWEEPS))


class PreparedSource:
  """Random access to prepared keyframes; examples are those of `data.NuScenesSource`, with the poses beside them."""

  def __init__(self, split: str, data_dir: str | os.PathLike, version: str = 'v1.0-trainval'):
    """Opens a split.

    Raises:
      UserError: if it is not prepared there.
    """
    name = f'nuscenes_frames/{config_name(version)}'
    skip = {camera: tfds.decode.SkipDecoding() for camera in CAMERAS}
    self._source = data.tfds_source(name, split, data_dir, skip)

  def __len__(self) -> int:
    """Number of keyframes."""
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """See the class."""
    found = self._source[index]
    token = found.pop('token').decode()
    pictures = [image_ops.decode(found.pop(camera), f'{camera} of {token}')[..., ::-1] for camera in CAMERAS]
    return {**found, 'index': int(index), 'token': token, 'images': pictures}


def config_name(version: str) -> str:
  """The builder's name of a version: 'v1.0-mini' is 'mini'."""
  return version.removeprefix('v1.0-')


def example(frame: Frame) -> dict[str, Any]:
  """The record of a keyframe."""
  boxes, labels = detection_objects(frame.objects)
  return {
    'token': frame.token,
    'points': aggregate(frame),
    'lidar2cam': np.stack([camera.lidar2cam for camera in frame.cameras]),
    'intrinsics': np.stack([camera.intrinsics for camera in frame.cameras]),
    'lidar2ego': frame.lidar2ego,
    'ego2global': frame.ego2global,
    'boxes': boxes,
    'labels': labels,
    **{camera.channel: picture_bytes(camera) for camera in frame.cameras},
  }


def prepare(dataset: NuScenes, data_dir: str | os.PathLike) -> None:
  """Writes the records of all splits of a version."""
  builder = NuscenesFrames(dataset=dataset, data_dir=os.fspath(data_dir), file_format='array_record')
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))


def main(argv: list[str] | None = None) -> int:
  """Prepares one version."""
  parser = argparse.ArgumentParser(prog='python -m jaxpapers.cmt.tfds_builder', description='Write TFDS records.')
  parser.add_argument('data_dir', help='where TFDS keeps its sets')
  parser.add_argument('--root', required=True, help='folder with samples/, sweeps/ and the tables')
  parser.add_argument('--version', default='v1.0-trainval', help='folder of the tables')
  args = parser.parse_args(argv)
  try:
    prepare(NuScenes(args.root, args.version), args.data_dir)
  except UserError as error:
    print(error, file=sys.stderr)
    return error.exit_code
  return 0


if __name__ == '__main__':
  sys.exit(main())
