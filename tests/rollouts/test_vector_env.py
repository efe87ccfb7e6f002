from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from mtf_scalper.errors import SettingsError
from mtf_scalper.rollouts.environments import first_rows
from mtf_scalper.rollouts.process_env import EnvFactory
from mtf_scalper.rollouts.vector_env import BatchedVectorEnv


def test_it_steps_as_gymnasiums_own_vector_of_reference_environments(
    make_market, tiny_settings
) -> None:
    market = make_market(n_candles=90, volatility=0.01)
    settings = tiny_settings(
        n_envs=3,
        batch_size=64,
        add_state_info=True,
        max_episode_steps=25,
        randomize_starting_position=True,
        rules={
            "entry": "any",
            "stoploss": -0.03,
            "minimal_roi": {0: 0.02},
            "max_training_drawdown": 0.05,
        },
    )
    ours = BatchedVectorEnv(market, settings)
    rows = first_rows(90, 4, 3)
    theirs = SyncVectorEnv(
        [EnvFactory(market, settings, row) for row in rows],
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"]
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert (ours.single_action_space, ours.num_envs) == (theirs.single_action_space, 3)
    np.testing.assert_array_equal(ours.reset(seed=5)[0], theirs.reset(seed=5)[0])
    rng = np.random.default_rng(2)
    ended = truncated_ = traded = 0
    for _ in range(400):
        actions = rng.integers(0, 5, 3)
        seen, rewards, terminated, truncated, infos = ours.step(actions)
        their_seen, their_rewards, their_terminated, their_truncated, their_infos = theirs.step(
            actions
        )
        np.testing.assert_array_equal(seen, their_seen)
        np.testing.assert_allclose(rewards, their_rewards, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(terminated, their_terminated)
        np.testing.assert_array_equal(truncated, their_truncated)
        np.testing.assert_array_equal(infos["action_mask"], seen[:, -5:] > 0.5)
        assert (
            ("final_obs" in infos)
            == ("final_obs" in their_infos)
            == bool((terminated | truncated).any())
        )
        if "final_obs" in infos:
            np.testing.assert_array_equal(infos["_final_obs"], their_infos["_final_obs"])
            for env in np.flatnonzero(infos["_final_obs"]):
                np.testing.assert_array_equal(
                    infos["final_obs"][env], their_infos["final_obs"][env]
                )
        for env in range(3):
            final = their_infos.get("final_info", {}) if (terminated | truncated)[env] else {}
            source = final if "_trade" in final and final["_trade"][env] else their_infos
            has_trade = "_trade" in source and bool(source["_trade"][env])
            assert ("_trade" in infos and bool(infos["_trade"][env])) == has_trade
            if has_trade:
                assert infos["trade"][env] == source["trade"][env]
                traded += 1
        ended += int(terminated.sum())
        truncated_ += int(truncated.sum())
    assert min(ended, truncated_, traded) > 3
    ours.close()
    theirs.close()


def test_other_environments_and_options_are_refused(make_market, tiny_settings) -> None:
    with pytest.raises(SettingsError, match="needs 'batched', not dummy"):
        BatchedVectorEnv(make_market(), tiny_settings(vec_env="dummy"))
    env = BatchedVectorEnv(make_market(), tiny_settings(), num_envs=5)
    assert env.reset()[0].shape == (5, 17)
    with pytest.raises(SettingsError, match="options: 'row' is unknown"):
        env.reset(options={"row": 5})
