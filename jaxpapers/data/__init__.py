"""Sources and batch pipelines. Knows no paper, and never imports TensorFlow."""

from jaxpapers.data.pipeline import EvaluationBatches, Pipeline, Source, batches, evaluation_batches, stack

__all__ = ['EvaluationBatches', 'Pipeline', 'Source', 'batches', 'evaluation_batches', 'stack']
