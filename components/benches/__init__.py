"""Benchmarks of the world: the catalogue, the paper's arithmetic, benchmarks of reward models and of policies, comparisons of models."""
