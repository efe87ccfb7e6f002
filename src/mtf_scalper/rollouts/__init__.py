"""All that learning from rollouts needs: environments, and PPO as stable-baselines3 has it."""
