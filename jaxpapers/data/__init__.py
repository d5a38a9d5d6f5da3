"""Sources and batch pipelines. Knows no paper, and never imports TensorFlow."""

from jaxpapers.data.pipeline import EvaluationBatches, Pipeline, Source, batches, evaluation_batches, stack
from jaxpapers.data.sources import ArraySource, ImageFolder, MemmapSource, write_memmap
from jaxpapers.data.tfds import tfds_source

__all__ = [
  'ArraySource',
  'EvaluationBatches',
  'ImageFolder',
  'MemmapSource',
  'Pipeline',
  'Source',
  'batches',
  'evaluation_batches',
  'stack',
  'tfds_source',
  'write_memmap',
]
