"""A bank of support for RefT: add a class from outlined images, and find all classes of the bank in an image.

python launch/support_bank.py --bank=bank.npz --name=bolt --images=a.png,b.png --masks=a_mask.png,b_mask.png
python launch/support_bank.py --bank=bank.npz --find=scene.png --out=found.png
"""

import os

from absl import flags

from jaxpapers.engine import cli
from jaxpapers.engine.errors import UserError

_WORKDIR = flags.DEFINE_string('workdir', '', "folder of a run of reft; default the package's small model (48x48)")
_BANK = flags.DEFINE_string('bank', '', 'file of the bank, .npz; made where there is none')
_NAME = flags.DEFINE_string('name', '', 'class to add examples to')
_IMAGES = flags.DEFINE_list('images', [], 'image files of the class')
_MASKS = flags.DEFINE_list(
  'masks', [], 'one mask file for each, as large as the image: what is not black is the object'
)
_FIND = flags.DEFINE_string('find', '', 'image in which to look for the classes of the bank')
_THRESHOLD = flags.DEFINE_float('threshold', 0.3, 'least score shown', 0.0, 1.0)
_OUT = flags.DEFINE_string('out', 'found.png', 'picture of what was found')


def main() -> None:
  """Extends the bank, or uses it."""
  if not _BANK.value.endswith('.npz'):
    raise UserError('No bank given: add --bank=FILE.npz.')
  if not _NAME.value and not _FIND.value:
    raise UserError('Nothing to do: add --name=CLASS with --images and --masks, or --find=IMAGE.')
  from jaxpapers.reft import bank_files, experiment
  from jaxpapers.reft.bank import SupportBank

  network = experiment.load_model(_WORKDIR.value)
  try:
    if os.path.exists(_BANK.value):
      bank = SupportBank.load(_BANK.value, network.model)
    else:
      bank = SupportBank.empty(network.model, network.names)
  except ValueError as error:
    raise UserError(str(error)) from error
  if _NAME.value:
    bank = bank_files.add_class(bank, network, _NAME.value, _IMAGES.value, _MASKS.value)
    bank.save(_BANK.value)
    listed = (f'{name} ({int(n)})' for name, n in zip(bank.names, bank.counts, strict=True) if n)
    print(f'{_BANK.value}: {", ".join(listed)}')
  if _FIND.value:
    found = bank_files.find(bank, network, _FIND.value, _THRESHOLD.value)
    bank_files.draw(_FIND.value, found, _OUT.value)
    for name, score, mask in found:
      print(f'{name}  score {score:.3f}  {int(mask.sum())} pixels')
    if not found:
      print(f'nothing scored {_THRESHOLD.value:g} or more; --threshold sets the least score shown')
    print(_OUT.value)


if __name__ == '__main__':
  cli.main(main)
