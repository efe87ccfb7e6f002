"""PPO: the masked policy, and an update that does no more than the mathematics need."""
