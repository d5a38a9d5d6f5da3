"""A TFDS builder of the features of `groove/full-midionly`, in a module of its own, as tfds wants it."""

import numpy as np
import tensorflow_datasets as tfds

ROWS: dict[str, list[dict[str, str]]] = {}
FILES: dict[str, bytes] = {}


class Groove(tfds.core.GeneratorBasedBuilder):
  """Rows and files that a test has put into ROWS and FILES."""

  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name='full-midionly', version=tfds.core.Version('2.0.1'))]

  def _info(self):
    rows = [row for several in ROWS.values() for row in several]
    primary = sorted({row['style'].split('/')[0] for row in rows})
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'id': np.str_,
          'drummer': tfds.features.ClassLabel(names=[f'drummer{i}' for i in range(1, 11)]),
          'type': tfds.features.ClassLabel(names=['beat', 'fill']),
          'bpm': np.int32,
          'time_signature': tfds.features.ClassLabel(names=['3-4', '4-4', '5-4', '5-8', '6-8']),
          'style': {'primary': tfds.features.ClassLabel(names=primary), 'secondary': np.str_},
          'midi': np.str_,
        }
      )
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(rows) for split, rows in ROWS.items()}

  def _generate_examples(self, rows):
    for row in rows:
      primary, _, secondary = row['style'].partition('/')
      yield (
        row['id'],
        {
          'id': row['id'],
          'drummer': row['drummer'],
          'type': row['beat_type'],
          'bpm': int(row['bpm']),
          'time_signature': row['time_signature'],
          'style': {'primary': primary, 'secondary': secondary},
          'midi': FILES[row['midi_filename']],
        },
      )
