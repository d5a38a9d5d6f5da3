"""What cannot be is refused before the policy report writes anything; the rest runs in the trained `test` variant."""

import numpy as np
import pytest

from jaxpapers.predictive_exit.policy_report import policy_report
from jaxpapers.predictive_exit.tables import Costs, ExitTable


class Page:
  """Nothing may be written."""

  def __getattr__(self, name):
    raise AssertionError(f'{name} was written')


TABLE = ExitTable(np.zeros((6, 4, 3)), np.zeros(6, int))
COSTS = Costs(*(np.ones(4) for _ in range(4)))


@pytest.mark.parametrize(
  ('networks', 'costs', 'options', 'message'),
  [
    ([(TABLE, TABLE)], COSTS, {'alphas': (0.9, 1.5)}, r'Deadlines are at least 1, .*not \(0.9, 1.5\)'),
    ([(TABLE, TABLE)], COSTS, {'alphas': ()}, 'Deadlines are at least 1'),
    ([(TABLE, TABLE)], COSTS, {'platform': 'tx9'}, "'tx9' is not known"),
    ([(TABLE, TABLE)], COSTS, {'constants': 'bw=0'}, 'bw must be positive'),
    ([(TABLE, TABLE)], COSTS._replace(head_macs=np.ones(3)), {}, 'head_macs needs one number for each of the 4'),
    ([(ExitTable(np.zeros((0, 4, 3)), np.zeros(0, int)), TABLE)], COSTS, {}, 'calibration set is empty'),
  ],
)
def test_bad_settings_write_nothing(networks, costs, options, message):
  with pytest.raises(ValueError, match=message):
    policy_report(Page(), networks, costs, **options)
