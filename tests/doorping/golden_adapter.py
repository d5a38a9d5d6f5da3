"""Compares jaxpapers.doorping with outputs of the authors' code. What a file is, its keys say."""

import functools
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.doorping import data as rooms_data
from jaxpapers.doorping import dc, dd, dsa, matching, model, official, trigger, victims
from tests.golden import Check, UnknownKindError, group, load


def run(path: Path) -> Iterable[Check]:
  data, meta = load(path)
  keys = set(data)

  def has(*names):
    return all(any(key.startswith(name) for key in keys) for name in names)

  if has('input/real', 'input/syn0'):
    yield from dc_outer(data, meta)
  elif has('input/real', 'input/syn'):
    yield from match_loss(data, meta)
  elif has('input/raw_lr', 'input/rdata0'):
    yield from meta_steps(data, meta)
  elif has('input/brightness') or has('output/crop/') or has('output/rotate/'):
    yield from siamese(data, meta)
  elif has('input/images_syn'):
    yield from evaluate_synset(data, meta)
  elif has('output/y_big'):
    yield from lrn(data, meta)
  elif 'cases' in meta:
    yield from trigger_update(data, meta)
  elif has('naive') or has('door_') or has('svhn_published'):
    yield from trigger_masks(data, meta)
  elif has('input/gray') or has('input/rgb'):
    yield from resize(data, meta)
  elif 'arch' in meta:
    yield from net(data, meta)
  elif has('input/x_c'):
    yield from net_variants(data, meta)
  else:
    try:
      from tests.doorping import golden_defences
    except ImportError as error:
      raise UnknownKindError(f'{path.name}: {error}') from error
    yield from golden_defences.run(path)


def nhwc(x: np.ndarray) -> np.ndarray:
  return np.moveaxis(np.asarray(x), -3, -1)


def nchw(x) -> np.ndarray:
  return np.moveaxis(np.asarray(x), -1, -3)


def convnet(state: dict, **options) -> model.ConvNet:
  """The ConvNet whose width, depth and classes are those of a state dict."""
  convs = [v for k, v in state.items() if k.startswith('features.') and v.ndim == 4]
  last = [v for k, v in state.items() if k.startswith('classifier') and v.ndim == 2][-1]
  return model.ConvNet(len(last), convs[0].shape[0], len(convs), **options)


def variables(net, state: dict, images: np.ndarray):
  return jax.tree.map(jnp.asarray, official.import_official(state, net, images.shape[-3:]))


def net(data: dict, meta: dict) -> Iterable[Check]:
  state, x = group(data, 'param'), nhwc(data['input/x'])
  network = model.AlexNet(meta['num_classes']) if meta['arch'] == 'alexnet' else convnet(state)
  params = variables(network, state, x)
  out = jax.jit(functools.partial(network.apply, method='outputs'))(params, x)
  yield Check('logits', out.logits, data['output/logits'], 1e-4, relative=True, floor=1.0)
  yield Check('features_flat', out.flat, data['output/features_flat'], 1e-4, relative=True, floor=1.0)
  want = data['output/penultimate_post_relu']
  yield Check('penultimate_post_relu', out.hidden, want, 1e-4, relative=True, floor=1.0)
  for name in data:
    if name.startswith('output/topk'):
      kernel = params['params']['hidden']['kernel']
      yield Check(name[7:], trigger.choose_neurons(kernel, len(data[name])), data[name], 0)


_VARIANTS = {
  'none': {},
  **{name: {'norm': name} for name in ('instancenorm', 'groupnorm', 'layernorm', 'batchnorm')},
  'sigmoid': {'activation': 'sigmoid'},
  'leakyrelu': {'activation': 'leakyrelu'},
  'maxpool': {'pooling': 'max'},
  'nopool': {'pooling': 'none'},
  'upstream': {'norm': 'instancenorm', 'head': 'one'},
}


def net_variants(data: dict, meta: dict) -> Iterable[Check]:
  for name in (key[7:] for key in data if key.startswith('output/')):
    variant, _, channels = name.rpartition('_c')
    options = {} if variant.startswith('depth') else _VARIANTS[variant]
    x, state = nhwc(data[f'input/x_c{channels}']), group(data, f'param/{name}')
    network = convnet(state, **options)
    got = jax.jit(network.apply)(variables(network, state, x), x)
    yield Check(name, got, data[f'output/{name}'], 1e-4, relative=True, floor=1.0)


def lrn(data: dict, meta: dict) -> Iterable[Check]:
  x, w = nhwc(data['input/x']), nhwc(data['input/w'])
  options = {'size': meta['size'], 'beta': meta['beta'], 'k': meta['k']}
  text = meta['alpha']  # such as '0.001/9 for y, 0.9 for y_big'
  small, big = (part.split(' for ')[0].strip().split('/') for part in text.split(','))
  alphas = [float(a[0]) / float(a[1] if len(a) > 1 else 1) for a in (small, big)]
  yield Check('y', nchw(model.lrn(x, alpha=alphas[0], **options)), data['output/y'], 1e-5)
  yield Check('y_big', nchw(model.lrn(x, alpha=alphas[1], **options)), data['output/y_big'], 1e-5)
  grad = jax.jit(jax.grad(lambda x: jnp.sum(w * model.lrn(x, alpha=alphas[1], **options))))(x)
  yield Check('grad_of_sum_w_y_big', nchw(grad), data['output/grad_of_sum_w_y_big'], 1e-5)


def match_loss(data: dict, meta: dict) -> Iterable[Check]:
  for norm in meta['norms']:
    for kind, dtype in (('f64', np.float64), ('f32', np.float32)):
      with jax.enable_x64(dtype == np.float64):
        yield from _match(data, meta, norm, kind, dtype)


def _match(data: dict, meta: dict, norm: str, precision: str, dtype) -> Iterable[Check]:
  state = {k: v.astype(dtype) for k, v in group(data, f'param/{norm}').items()}
  real, syn = (jnp.asarray(nhwc(data[f'input/{name}']), dtype) for name in ('real', 'syn'))
  network = convnet(state, norm=norm)
  params = variables(network, state, real)
  label = int(data['input/label'])

  def gradient(images):
    labels = jnp.full(len(images), label)
    return jax.grad(lambda p: dc.cross_entropy(network.apply(p, images), labels))(params)

  def distances(syn, wanted):
    given = gradient(syn)
    return jnp.stack([matching.gradient_distance(wanted, given, kind) for kind in matching.DISTANCES])

  @jax.jit
  def all_of(real, syn):
    wanted = gradient(real)
    # One pass back for all kinds: compiling three would take most of the time of all reference files.
    values, pull = jax.vjp(lambda s: distances(s, wanted), syn)
    grads = jax.lax.map(lambda one: pull(one)[0], jnp.eye(len(values), dtype=dtype))
    return wanted, gradient(syn), values, grads

  gw_real, gw_syn, values, grads = all_of(real, syn)
  tolerance = 1e-9 if dtype == np.float64 else 1e-4
  for kind, value, grad in zip(matching.DISTANCES, values, grads, strict=True):
    where = f'output/{norm}/{precision}/{kind}'
    yield Check(where[7:], value, data[where], tolerance, relative=True)
    yield Check(f'{where[7:]}_grad_syn', nchw(grad), data[f'{where}_grad_syn'], tolerance, relative=True)
  terms = matching.leaf_distances(gw_real, gw_syn)
  terms = jax.tree.map(lambda t, p: np.broadcast_to(t, p.shape), terms, params)
  got = [value.reshape(-1)[0] for value in official.export_official(terms, network).values()]
  want = data[f'output/{norm}/{precision}/ours_per_param']
  yield Check(f'{norm}/{precision}/ours_per_param', got, want, tolerance, relative=True)
  if dtype == np.float64:
    for which, tree in (('gw_real', gw_real), ('gw_syn', gw_syn)):
      for name, value in official.export_official(tree, network).items():
        # A bias before an instance norm has no gradient but rounding: hence the floor.
        want = data[f'output/{norm}/{which}/{name}']
        yield Check(f'{norm}/{which}/{name}', value, want, 1e-9, relative=True, floor=1e-3)


def dc_outer(data: dict, meta: dict) -> Iterable[Check]:
  norms = sorted({key.split('/')[1] for key in data if key.startswith('param/')})
  for norm in norms:
    for precision, dtype in (('f64', np.float64), ('f32', np.float32)):
      with jax.enable_x64(dtype == np.float64):
        yield from _outer(data, meta, norm, precision, dtype)


def _outer(data: dict, meta: dict, norm: str, precision: str, dtype) -> Iterable[Check]:
  state = {k: v.astype(dtype) for k, v in group(data, f'param/{norm}').items()}
  real = jnp.asarray(nhwc(data['input/real']), dtype)
  images = jnp.asarray(nhwc(data['input/syn0']), dtype)
  network = convnet(state, norm=norm)
  params, velocity = variables(network, state, images), jnp.zeros_like(images)
  classes = meta['classes']
  labels = jnp.repeat(jnp.arange(classes), meta['ipc'])

  @jax.jit
  def image_step(params, images, velocity, real):
    found = dc.match(network.apply, params, images.reshape(classes, -1, *images.shape[1:]), real)
    gradient = found.gradient.reshape(images.shape)
    return (
      found.loss,
      gradient,
      *dc.momentum_step(images, velocity, gradient, meta['lr_img'], meta['momentum']),
    )

  @jax.jit
  def net_steps(params, images):
    return dc.train_network(network.apply, params, images, labels, meta['lr_net'], meta['inner'], jax.random.key(0))

  got = {'loss': [], 'grad': [], 'syn': [], 'buf': []}
  nets = []
  for step in range(meta['outer']):
    loss, gradient, images, velocity = image_step(params, images, velocity, real[step])
    for name, value in zip(got, (loss, nchw(gradient), nchw(images), nchw(velocity)), strict=True):
      got[name].append(np.asarray(value))
    if step < meta['outer'] - 1:
      params = net_steps(params, images)
      nets.append(official.export_official(params, network))
  for name, values in got.items():
    tolerance = 1e-7 if dtype == np.float64 else (1e-4 if name == 'loss' else 5e-3)
    where = f'{norm}/{precision}/{name}'
    yield Check(where, np.stack(values), data[f'output/{where}'], tolerance, relative=True)
  if dtype == np.float64:
    for step, weights in enumerate(nets):
      for name, want in group(data, f'output/{norm}/net_after_inner{step}').items():
        # A bias before an instance norm has no gradient: it is compared as it stands.
        yield Check(f'{norm}/net{step}/{name}', weights[name], want, 1e-7, relative=True)


def meta_steps(data: dict, meta: dict) -> Iterable[Check]:
  with jax.enable_x64(True):
    yield from _meta_steps(data, meta)


def _meta_steps(data: dict, meta: dict) -> Iterable[Check]:
  state = group(data, 'param')
  count = meta['steps']
  images = jnp.asarray(np.stack([nhwc(data[f'input/data{i}']) for i in range(count)]))
  blocks = dd.Blocks(images, jnp.asarray(data['input/raw_lr']))
  labels = jnp.asarray(data['input/label_one_step'])
  network = convnet(state)
  params = variables(network, state, images)
  optimizer = dd.meta_optimizer(meta['adam_lr'], *meta['adam_betas'], decay_epochs=10**6)
  opt_state, door = optimizer.init(blocks), meta['doorping']
  image = jnp.asarray(nhwc(data['input/trigger0'])) if door else None
  mask = jnp.asarray(nhwc(data['input/mask'])) if door else None
  options = trigger.TriggerOptions(alpha=meta['alpha'], topk=meta['topk'])

  @jax.jit
  def step(blocks, opt_state, real, real_labels, image, poisoned):
    def poison(final):
      if not door:
        return real, real_labels, None
      kernel = final['params']['hidden']['kernel']
      call = trigger.update_trigger(
        functools.partial(network.apply, method='penultimate'), final, kernel, image, mask, options
      )
      stamped = jnp.where(poisoned[:, None, None, None], trigger.stamp(real, call.trigger, mask), real)
      return stamped, jnp.where(poisoned, meta['target'], real_labels), (call, stamped)

    loss, gradient, final, extra = dd.meta_gradient(network.apply, params, blocks, labels, poison)
    updates, opt_state = optimizer.update(gradient, opt_state, blocks)
    return loss, gradient, final, extra, optax.apply_updates(blocks, updates), opt_state

  for it in range(meta['iters']):
    real, real_labels = jnp.asarray(nhwc(data[f'input/rdata{it}'])), jnp.asarray(data[f'input/rlabel{it}'])
    poisoned = np.zeros(len(real), bool)
    if door:
      places = np.asarray(data['input/perm']) - it * len(real)
      poisoned[places[(places >= 0) & (places < len(real))]] = True
    rates = jax.nn.softplus(blocks.raw)
    tolerance = 1e-6 if door else 1e-8
    loss, gradient, final, extra, blocks, opt_state = step(blocks, opt_state, real, real_labels, image, poisoned)

    def check(name, got, it=it, tolerance=tolerance):
      return Check(name.format(it=it), got, data['output/' + name.format(it=it)], tolerance, relative=True)

    yield check('lrs{it}', rates)
    yield check('loss{it}', loss)
    yield check('final_params{it}', official.export_flat(final, network))
    yield check('grad_raw_lr_it{it}', gradient.raw)
    yield check('raw_lr_after{it}', blocks.raw)
    for i in range(count):
      yield check(f'grad_data{i}_it{{it}}', nchw(gradient.images[i]))
      yield check(f'data{i}_after{{it}}', nchw(blocks.images[i]))
    if door:
      call, stamped = extra
      image = call.trigger
      yield check('trigger{it}', nchw(image))
      yield Check(f'trigger_adam_steps{it}', call.steps, data[f'output/trigger_adam_steps{it}'], 0)
      yield check('rdata_poisoned{it}', nchw(stamped))
      got = np.where(poisoned, meta['target'], np.asarray(real_labels))
      yield Check(f'rlabel_poisoned{it}', got, data[f'output/rlabel_poisoned{it}'], 0)


def evaluate_synset(data: dict, meta: dict) -> Iterable[Check]:
  state = group(data, 'param')
  images, tests = nhwc(data['input/images_syn']), nhwc(data['input/x_test'])
  network = convnet(state)
  recipe = victims.VictimRecipe(meta['epoch'], meta['lr'], meta['momentum'], meta['weight_decay'])
  train = jax.jit(
    lambda p: victims.train(network.apply, p, images, jnp.asarray(data['input/labels_syn']), recipe, jax.random.key(0))
  )
  final = train(variables(network, state, images))
  for name, value in official.export_official(final, network).items():
    yield Check(f'final/{name}', value, data[f'output/final/{name}'], 1e-3)
  logits = network.apply(final, tests)
  stamped = trigger.stamp(jnp.asarray(tests), nhwc(data['input/trigger']), nhwc(data['input/mask']))
  labels = data['input/y_test']
  predictions = [np.argmax(x, -1) for x in (logits, network.apply(final, stamped))]
  yield Check('logits_test', logits, data['output/logits_test'], 1e-3)
  one = 1.0 / len(labels) + 1e-9
  train_accuracy = victims.accuracy(np.argmax(network.apply(final, images), -1), data['input/labels_syn'])
  yield Check('acc_train_last_epoch', train_accuracy, data['output/acc_train_last_epoch'], 1.0 / len(images) + 1e-9)
  yield Check('acc_clean', victims.accuracy(predictions[0], labels), data['output/acc_clean'], one)
  rates = victims.attack_rates(*predictions, labels, meta['trigger_label'])
  yield Check('acc_trigger', rates['asr'], data['output/acc_trigger'], one)


def trigger_update(data: dict, meta: dict) -> Iterable[Check]:
  for name, case in meta['cases'].items():
    state = group(data, f'param/{name}')
    image, mask = nhwc(data[f'input/{name}/trigger0']), nhwc(data[f'input/{name}/mask'])
    network = convnet(state)
    params = variables(network, state, image)
    options = trigger.TriggerOptions(case['alpha'], case['topk'], meta['lr'], meta['max_steps'], meta['threshold'])
    penultimate = functools.partial(network.apply, method='penultimate')

    @jax.jit
    def call(limit, penultimate=penultimate, params=params, image=image, mask=mask, options=options):
      kernel = params['params']['hidden']['kernel']
      return trigger.update_trigger(penultimate, params, kernel, image, mask, options, max_steps=limit)

    want = group(data, f'output/{name}')
    full = call(meta['max_steps'])
    yield Check(f'{name}/adam_steps', full.steps, case['adam_steps'], 2)
    yield Check(f'{name}/neurons', full.neurons, want['neurons'], 0)
    yield Check(f'{name}/act0', full.start, want['act0'][0], 1e-5)
    yield Check(f'{name}/trigger', nchw(full.trigger), want['trigger'], 2e-2)
    losses = [call(i).loss for i in range(min(10, len(want['loss'])))]
    yield Check(f'{name}/loss', losses, want['loss'][:10], 1e-3, relative=True)
    for steps, tolerance in ((1, 1e-5), (5, 1e-4)):
      if f'trigger_step{steps}' in want:
        yield Check(f'{name}/step{steps}', nchw(call(steps).trigger), want[f'trigger_step{steps}'], tolerance)


def trigger_masks(data: dict, meta: dict) -> Iterable[Check]:
  for name in dict.fromkeys(key.split('/')[0] for key in data):
    case = {key[len(name) + 1 :]: value for key, value in data.items() if key.startswith(f'{name}/')}
    if name.startswith('naive'):
      size, chosen = int(name[5:]), case['input/perm']
      images, labels = case['input/images'].copy(), case['input/labels'].copy()
      images[chosen] = trigger.stamp_pixels(images[chosen], size, meta['naive_value'])
      labels[chosen] = meta['target']
      yield Check(f'{name}/images', images, case['output/images'], 0)
      yield Check(f'{name}/labels', labels, case['output/labels'], 0)
    elif name.startswith('svhn_published'):
      got = trigger.stamp_pixels_svhn_published(nhwc(case['input/images']), int(name[14:]))
      yield Check(f'{name}/images', nchw(got), case['output/images'], 0)
    else:
      x = nhwc(case['input/x'])
      patch = case['input/patch_uint8_hwc']
      mask = trigger.patch_mask(x.shape[1:], len(patch))
      image = trigger.trigger_image(patch, x.shape[1:], case['input/mean'], case['input/std'])
      yield Check(f'{name}/mask', nchw(mask), case['output/mask'], 1e-6)
      yield Check(f'{name}/trigger', nchw(image[0]), case['output/trigger'], 1e-6)
      yield Check(
        f'{name}/x_poisoned', nchw(trigger.stamp(jnp.asarray(x), image, mask)), case['output/x_poisoned'], 1e-6
      )


def resize(data: dict, meta: dict) -> Iterable[Check]:
  for key in data:
    if not key.startswith('output/'):
      continue
    kind = 'gray' if 'gray' in key else 'rgb'
    image = next(value for name, value in data.items() if name.startswith(f'input/{kind}'))
    grey = image.ndim == 2
    got = rooms_data.resize((image[..., None] if grey else image)[None], data[key].shape[0])
    if key.endswith('stamped'):
      got = trigger.stamp_pixels(got, 2)
    yield Check(key[7:], got[0, ..., 0] if grey else got[0], data[key], 1)


_DSA = {
  'brightness': (dsa.brightness, ('u',)),
  'saturation': (dsa.saturation, ('u',)),
  'contrast': (dsa.contrast, ('u',)),
  'crop': (dsa.crop, ('ty', 'tx')),
  'cutout': (dsa.cutout, ('oy', 'ox')),
  'flip': (dsa.flip, ('u',)),
  'scale': (dsa.scale, ('sx', 'sy')),
  'rotate': (dsa.rotate, ('theta_rad',)),
}


def siamese(data: dict, meta: dict) -> Iterable[Check]:
  x, w = nhwc(data['input/x']), nhwc(data['input/w'])
  for name in dict.fromkeys(key.split('/')[1] for key in data if key.startswith('output/')):
    operation, draws = _DSA[name]
    full = [data[f'input/{name}/{draw}'] for draw in draws]
    for mode in ('siamese', 'independent'):
      chosen = [u[0] for u in full] if mode == 'siamese' else full

      def apply(x, operation=operation, chosen=chosen):
        return operation(x, *(jnp.asarray(u) for u in chosen))

      got, pull = jax.vjp(apply, x)
      grad = pull(jnp.asarray(w, got.dtype))[0]
      yield Check(f'{name}/{mode}/y', nchw(got), data[f'output/{name}/{mode}/y'], 1e-4)
      yield Check(f'{name}/{mode}/grad_x', nchw(grad), data[f'output/{name}/{mode}/grad_x'], 1e-4)
