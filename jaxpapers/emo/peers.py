"""EMO beside a PyTorch backbone of the same class, for `launch/benchmark.py --peer=torch`. Needs the extra `bench`."""

from collections.abc import Callable

import ml_collections

from jaxpapers.engine.errors import UserError
from jaxpapers.engine.measure import Measurement, median_seconds

TORCH_MODEL = 'edgenext_xx_small'  # 1.3 M parameters, 0.26 GMACs at 256: what the paper compares EMO-1M with


def torch_peer(config: ml_collections.ConfigDict, *, repeats: int, threads: int) -> list[Measurement]:
  """Eager PyTorch on CPU (or its GPU), float32: one AdamW step and one inference pass of timm's EdgeNeXt-XXS.

  Args:
    config: EMO's settings; batch and image size are taken from it.
    repeats: timed calls.
    threads: of PyTorch; 0 leaves its default.

  Raises:
    UserError: if torch or timm is not installed.
  """
  try:
    import timm
    import torch
  except ImportError as error:
    raise UserError('--peer=torch needs PyTorch and timm: pip install -e ".[bench]".') from error
  if threads:
    torch.set_num_threads(threads)
  device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
  batch, size = config.train.batch_size, config.data.image_size
  images = torch.randn(batch, 3, size, size, device=device)
  labels = torch.zeros(batch, dtype=torch.long, device=device)
  model = timm.create_model(TORCH_MODEL, pretrained=False, num_classes=1000).to(device)
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)

  def train() -> None:
    optimizer.zero_grad(set_to_none=True)
    torch.nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1).backward()
    optimizer.step()
    _wait(torch, device)

  def infer() -> None:
    with torch.inference_mode():
      model(images)
    _wait(torch, device)

  model.train()
  rows = [Measurement(f'torch {TORCH_MODEL} train', batch, median_seconds(train, repeats), beside='emo train')]
  model.eval()
  rows.append(Measurement(f'torch {TORCH_MODEL} eval', batch, median_seconds(infer, repeats), beside='emo test'))
  return rows


def _wait(torch, device) -> None:
  if device.type == 'cuda':
    torch.cuda.synchronize()


PEERS: dict[str, Callable[..., list[Measurement]]] = {'torch': torch_peer}
