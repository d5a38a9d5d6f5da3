"""PPO learns a corridor, its pieces are the textbook's, and experts are kept in files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.r2rise import expert
from jaxpapers.r2rise.forks import make_forks, secret_actions

OPTIONS = expert.ExpertOptions(updates=25, copies=16, horizon=16, hidden=(16,), rate=1e-2)
GAME = make_forks(1, forks=3, fillers=1)._replace(expert=None)


def test_advantages_are_sums_of_discounted_errors_within_episodes():
  rng = np.random.default_rng(0)
  rewards, values, done = rng.normal(size=(6, 2)), rng.normal(size=(6, 2)), rng.random((6, 2)) < 0.3
  last, gamma, lam = rng.normal(size=2), 0.9, 0.8
  played = expert.Round(None, None, None, *(jnp.asarray(x) for x in (values, rewards, done)))
  want = np.zeros((6, 2))
  for copy in range(2):
    for start in range(6):
      weight = 1.0
      for t in range(start, 6):
        following = last[copy] if t == 5 else values[t + 1, copy]
        want[start, copy] += weight * (rewards[t, copy] + gamma * following * (not done[t, copy]) - values[t, copy])
        weight *= gamma * lam
        if done[t, copy]:
          break
  np.testing.assert_allclose(expert.generalised_advantages(played, jnp.asarray(last), gamma, lam), want, atol=1e-5)


def test_the_loss_stops_at_the_clip():
  options = expert.ExpertOptions(entropy=0.0)
  logits = jnp.array([[4.0, 0.0], [0.0, 0.0]])
  batch = (None, jnp.array([0, 0]), jnp.log(jnp.array([0.5, 0.5])), jnp.array([1.0, -1.0]), jnp.zeros(2))
  grads = jax.grad(expert.clipped_loss)(logits, jnp.zeros(2), batch, options)
  # The first is past 1.2 times its old probability and has a positive advantage: no push. The second's ratio is 1.
  np.testing.assert_allclose(grads[0], 0.0, atol=1e-6)
  assert grads[1, 0] > 0.1


def test_an_expert_is_trained_once_and_kept(tmp_path, monkeypatch):
  game = expert.cached_expert(GAME, OPTIONS, 0, str(tmp_path))
  (file,) = tmp_path.iterdir()
  positions = jnp.arange(0, 6, 2, dtype=jnp.int32)
  np.testing.assert_array_equal(game.expert(positions), secret_actions(1, 3, 4))

  def never(*arguments):
    raise AssertionError('trained again')

  monkeypatch.setattr(expert, 'train_expert', never)
  again = expert.cached_expert(GAME, OPTIONS, 0, str(tmp_path))
  np.testing.assert_array_equal(again.expert(positions), game.expert(positions))
  file.write_bytes(file.read_bytes()[:100])
  with pytest.raises(AssertionError, match='trained again'):
    expert.cached_expert(GAME, OPTIONS, 0, str(tmp_path))
  scripted = GAME._replace(expert=lambda state: state)
  assert expert.cached_expert(scripted, OPTIONS, 0, '') is scripted


def test_experts_that_cannot_be_trained_are_named():
  with pytest.raises(ValueError, match='runs on the host: give demonstrations'):
    expert.train_expert(GAME._replace(pure=False), OPTIONS, jax.random.key(0))
  with pytest.raises(ValueError, match='minibatches=3'):
    expert.train_expert(GAME, OPTIONS._replace(minibatches=3), jax.random.key(0))
