"""What a run of R2RISE found, as data: everything that tables and figures need. NumPy only."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxpapers.r2rise.demos import Demonstrations
from jaxpapers.r2rise.importance import ImportanceMap
from jaxpapers.r2rise.statistics import EqualityTest


@dataclasses.dataclass(frozen=True)
class Reliability:
  """How a map settles as masks are added.

  Attributes:
    masks: [K] masks used.
    reliability: [S, K] split-half reliability then, of every seed's map; NaN for a constant map.
    auc: [S, K] area under the ROC curve against the planted truth, or None where nothing was planted.
    stopped: [S] masks after which the stopping rule ended, 0 where it never did.
  """

  masks: np.ndarray
  reliability: np.ndarray
  auc: np.ndarray | None
  stopped: np.ndarray


@dataclasses.dataclass(frozen=True)
class Curve:
  """Returns of fresh learners on chosen cells: insertion keeps the top cells, deletion keeps the bottom ones.

  Attributes:
    orders: [P] 'top', 'bottom', 'random', 'all' (every frame), 'truth' (the planted cells) or 'top_of_NAME' (the top
      cells of another learner's map).
    fractions: [P] share of the cells that is kept.
    returns: [S, P, L] mean return of every learner; seed s follows the map of seed s.
  """

  orders: tuple[str, ...]
  fractions: np.ndarray
  returns: np.ndarray

  def mean(self) -> np.ndarray:
    """[P] over seeds and learners."""
    return self.returns.mean(axis=(0, 2))

  def seed_means(self) -> np.ndarray:
    """[S, P] over learners."""
    return self.returns.mean(axis=2)

  def error(self) -> np.ndarray:
    """[P] standard error of the mean: over seeds where there are several, else over learners."""
    parts = self.seed_means() if len(self.returns) > 1 else self.returns[0].T
    return parts.std(axis=0, ddof=1) / np.sqrt(len(parts))

  def line(self, order: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(fractions, means, standard errors) of the points of one order, fractions rising."""
    chosen = np.asarray([name == order for name in self.orders])
    index = np.flatnonzero(chosen)[np.argsort(self.fractions[chosen], kind='stable')]
    return self.fractions[index], self.mean()[index], self.error()[index]


@dataclasses.dataclass(frozen=True)
class LearnerResult:
  """One learner's map and how far it can be trusted.

  Attributes:
    name: of the learner ('bc', 'bco', 'gail', or a user's own).
    importance: value, error and freedom [E, C] of all seeds' masks together.
    seed_values: [S, E, C] the map of every seed by itself.
    masks: [S, N, E, C] in [0, 1] (bool unless they are smooth).
    returns: [S, N] mean return of every mask's learner; NaN where a stopping rule left it untrained.
    kept: [S, N] summed weight of the kept frames; 0 is a mask without any, whose learner acts by chance.
    equality: the permutation test of 'all frames are equally important'.
    auc: [S] against the planted truth, or None.
    reliability: of the map over the number of masks.
    curve: of retraining.
  """

  name: str
  importance: ImportanceMap
  seed_values: np.ndarray
  masks: np.ndarray
  returns: np.ndarray
  kept: np.ndarray
  equality: EqualityTest
  auc: np.ndarray | None
  reliability: Reliability
  curve: Curve


@dataclasses.dataclass(frozen=True)
class AgreementMatrix:
  """Maps of learners compared, [L, L] each, in the order of `names`.

  Attributes:
    names: of the learners.
    spearman: rank correlations over cells; the diagonal holds the reliability of each map.
    low, high: 95 % bootstrap interval over cells.
    ceiling: what two maps of this reliability could reach at most.
    overlap: Jaccard index of the top fifth of the cells.
  """

  names: tuple[str, ...]
  spearman: np.ndarray
  low: np.ndarray
  high: np.ndarray
  ceiling: np.ndarray
  overlap: np.ndarray


@dataclasses.dataclass(frozen=True)
class Results:
  """A whole run.

  Attributes:
    environment: name of the game.
    demos: the demonstrations that were explained.
    truth: [E, C] bool, planted importance, or None.
    block: frames that share a cell.
    estimator: of the maps.
    keep: probability that a cell is kept.
    learners: one entry each.
    agreement: between their maps.
    baselines: {name: [E, C] scores} of cheap methods, higher is more important.
  """

  environment: str
  demos: Demonstrations
  truth: np.ndarray | None
  block: int
  estimator: str
  keep: float
  learners: tuple[LearnerResult, ...]
  agreement: AgreementMatrix
  baselines: Mapping[str, np.ndarray]
