"""Mask2Former of the published size in Hugging Face transformers, for `launch/benchmark.py --peer=transformers`.

The same work as the rows of `benchmarks` that it stands beside: ResNet-50 with frozen norms, six deformable encoder
layers (without the CUDA extension, `grid_sample`), 100 queries, nine decoder layers. Without the norms of the backbone,
which are constants here, both have exactly the same number of parameters, 43,970,257 with 80 classes.
"""

from collections.abc import Callable
from typing import Any

import ml_collections

from jaxpapers.engine.errors import UserError
from jaxpapers.engine.measure import Measurement, median_seconds
from jaxpapers.reft import benchmarks

BACKBONE = (3, 4, 6, 3)


def transformers_peer(
  config: ml_collections.ConfigDict,
  *,
  repeats: int,
  threads: int,
  sizes: tuple[int, ...] = benchmarks.SIZES,
  **options: Any,
) -> list[Measurement]:
  """Eager PyTorch, float32, one image: inference at each size and a training step at the first.

  Args:
    config: not looked at: the model is the published one.
    repeats: timed calls.
    threads: of PyTorch; 0 leaves its default.
    sizes: sides of the image.
    **options: see `mask2former`.

  Raises:
    UserError: if torch or transformers is not installed.
  """
  del config
  torch, _ = _libraries()
  if threads:
    torch.set_num_threads(threads)
  device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
  model = mask2former(**options).to(device)
  rows = []
  for size in sizes:
    call = inference(model, size)
    rows.append(
      Measurement(f'transformers, {size}', 1, median_seconds(call, repeats), beside=benchmarks.forward_name(size))
    )
  call = training(model, sizes[0])
  seconds = median_seconds(call, repeats)
  return [*rows, Measurement(f'transformers step, {sizes[0]}', 1, seconds, beside=benchmarks.step_name(sizes[0]))]


def mask2former(backbone: tuple[int, ...] = BACKBONE, encoder_layers: int = 6, decoder_layers: int = 9) -> Any:
  """`Mask2FormerForUniversalSegmentation` with random weights and a ResNet of bottleneck blocks.

  Args:
    backbone: blocks of its four stages.
    encoder_layers: of the pixel decoder.
    decoder_layers: of the transformer decoder.

  Raises:
    UserError: if torch or transformers is not installed.
  """
  torch, transformers = _libraries()
  stages = [f'stage{i}' for i in range(1, 5)]
  config = transformers.Mask2FormerConfig(
    backbone_config=transformers.ResNetConfig(depths=list(backbone), out_features=stages),
    encoder_layers=encoder_layers,
    # It counts the prediction from the initial queries as a layer.
    decoder_layers=decoder_layers + 1,
    num_labels=benchmarks.CLASSES,
    train_num_points=benchmarks.POINTS,
  )
  model = transformers.Mask2FormerForUniversalSegmentation(config)
  for module in norms(model):
    torch.nn.init.ones_(module.weight)
    module.requires_grad_(False)
  return model


def norms(model: Any) -> list[Any]:
  """The batch norms of a model, all in its backbone: constants, as the published recipe has them."""
  torch, _ = _libraries()
  return [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def inference(model: Any, size: int) -> Callable[[], Any]:
  """A call that predicts classes and masks of one image."""
  torch, _ = _libraries()
  image = _image(torch, size).to(model.device)

  def call() -> Any:
    model.eval()
    with torch.inference_mode():
      output = model(image)
    _wait(torch)
    return output

  return call


def training(model: Any, size: int) -> Callable[[], float]:
  """A call that makes one step on `benchmarks.example`: set loss of all layers, gradient, clipping, AdamW."""
  torch, _ = _libraries()
  example, image = benchmarks.example(size), _image(torch, size).to(model.device)
  masks = [torch.from_numpy(part).float().to(model.device) for part in example['masks']]
  classes = [torch.from_numpy(part).long().to(model.device) for part in example['classes']]
  learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
  optimizer = torch.optim.AdamW(learning, lr=1e-4, weight_decay=0.05)

  def call() -> float:
    model.train()
    for module in norms(model):
      module.eval()
    optimizer.zero_grad(set_to_none=True)
    loss = model(image, mask_labels=masks, class_labels=classes).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(learning, 0.01)
    optimizer.step()
    _wait(torch)
    return loss.item()

  return call


def _libraries() -> tuple[Any, Any]:
  try:
    import torch
    import transformers
  except ImportError as error:
    raise UserError('--peer=transformers needs PyTorch and transformers: pip install -e ".[bench]".') from error
  return torch, transformers


def _image(torch: Any, size: int) -> Any:
  return torch.from_numpy(benchmarks.example(size)['images']).permute(0, 3, 1, 2).contiguous()


def _wait(torch: Any) -> None:
  if torch.cuda.is_available():
    torch.cuda.synchronize()


PEERS: dict[str, Callable[..., list[Measurement]]] = {'transformers': transformers_peer}
