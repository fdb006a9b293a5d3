"""The parts of `crystalign enumerate`: what is to be made, the parents sorted by prototype, and the task of a shard."""
