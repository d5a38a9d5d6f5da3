"""A TFDS builder in a module of its own, as tfds wants it."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def picture(index):
  return np.full((6, 5, 3), 10 * index, np.uint8)


class TinyPictures(tfds.core.GeneratorBasedBuilder):
  """Pictures of one colour."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(None, None, 3)),
          'label': tfds.features.ClassLabel(num_classes=5),
          'text': tfds.features.Text(),
        }
      )
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(7)}

  def _generate_examples(self, count):
    for index in range(count):
      file = io.BytesIO()
      Image.fromarray(picture(index)).save(file, 'PNG')
      file.seek(0)
      yield index, {'image': file, 'label': index % 5, 'text': f'number {index}'}
