"""From a test step's outputs to COCO results at the size of the original images.

Original images differ in size, so that the last resizing is done on the host.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from jaxpapers.ops import coco_ap
from jaxpapers.ops.resize import bilinear_matrix
from jaxpapers.reft.evaluation import FewShotPrecision, few_shot_precision
from jaxpapers.reft.splits import Split


class Pairs(NamedTuple):
  """The best pairs of query and class of each image, by falling class probability.

  Attributes:
    scores: [batch, pairs] class probability.
    classes: [batch, pairs] int32.
    queries: [batch, pairs] int32.
  """

  scores: jax.Array
  classes: jax.Array
  queries: jax.Array


def best_pairs(logits: jax.Array, limit: int = 100) -> Pairs:
  """The best pairs of [batch, queries, classes + 1] logits; no object is the last class. Inside a compiled step.

  Source: Mask2Former's code.
  """
  chex.assert_rank(logits, 3)
  probability = jax.nn.softmax(logits, axis=-1)[..., :-1]
  batch, queries, classes = probability.shape
  scores, index = jax.lax.top_k(probability.reshape(batch, -1), min(limit, queries * classes))
  return Pairs(scores, (index % classes).astype(jnp.int32), (index // classes).astype(jnp.int32))


def image_results(
  pairs: Pairs,
  masks: np.ndarray,
  *,
  canvas: Sequence[int],
  covered: Sequence[int],
  size: Sequence[int],
  image_id: int,
  category_ids: Sequence[int],
) -> list[dict[str, Any]]:
  """COCO results of one image, by falling score: class probability times the mean of the mask.

  Source: Mask2Former's code.

  Args:
    pairs: [pairs] each.
    masks: [queries, h, w] logits of the queries' masks.
    canvas: (height, width) of the network's input.
    covered: (height, width) of its top left part that the image covers.
    size: (height, width) of the original image.
    image_id: of the image.
    category_ids: of each class.
  """
  # Both resizings are linear along each axis, so that one matrix does both.
  rows, columns = (
    bilinear_matrix(covered[axis], size[axis]) @ bilinear_matrix(masks.shape[axis + 1], canvas[axis])[: covered[axis]]
    for axis in (0, 1)
  )
  known = {}
  for query in np.unique(pairs.queries).tolist():
    large = rows @ np.asarray(masks[query], np.float32) @ columns.T
    binary = large > 0
    known[query] = coco_ap.encode_mask(binary), expit(large[binary]).sum() / (binary.sum() + 1e-6)
  results = [
    {
      'image_id': image_id,
      'category_id': category_ids[label],
      'score': float(score * known[query][1]),
      'segmentation': known[query][0],
    }
    for score, label, query in zip(*(np.asarray(x).tolist() for x in pairs), strict=True)
  ]
  return sorted(results, key=lambda result: -result['score'])


def evaluate_outputs(
  outputs: Iterable[Mapping[str, np.ndarray]], truth: Mapping[str, Any], split: Split, setting: str = 'gfsis'
) -> FewShotPrecision:
  """Precision of the outputs of a test step over the batches of a pass.

  Args:
    outputs: for each batch 'scores', 'classes', 'queries' (see Pairs), 'masks' [batch, queries, h, w] logits, 'canvas'
      [2], and of the batch 'image_size', 'size', 'id', 'valid' (see `evaluation_transform`).
    truth: instances JSON of the test images.
    split: gives classes their category ids.
    setting: 'fsis' counts the novel classes alone.
  """
  category_ids, results = list(split.names), []
  for output in outputs:
    for i in np.flatnonzero(output['valid']):
      results += image_results(
        Pairs(*(output[name][i] for name in Pairs._fields)),
        output['masks'][i],
        canvas=output['canvas'],
        covered=output['image_size'][i],
        size=output['size'][i],
        image_id=int(output['id'][i]),
        category_ids=category_ids,
      )
  return few_shot_precision(truth, results, () if setting == 'fsis' else split.base, split.novel)
