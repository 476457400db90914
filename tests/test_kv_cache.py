"""The cache of keys and values: what a path keeps, at its end too."""

import torch

from ltd.engine.kv_cache import KeyValueCache


def test_a_path_is_kept_as_far_as_there_is_room():
    """Five rows behind six of eight tokens: two are kept, the others change nothing that is read."""
    cache = KeyValueCache(1, 1, 4, capacity=8, scratch=6)
    cache.buffer.normal_()
    before, (scratch, capacity) = cache.buffer.clone(), (6, 8)
    path = torch.tensor([0, 1, 2, 4, 5])
    cache.keep_path(path, 6, torch.tensor([6]), torch.tensor([5]))
    kept = cache.buffer[:, :, scratch + 6 : scratch + capacity]
    assert torch.equal(kept, before[:, :, path[:2]])
    assert torch.equal(cache.buffer[:, :, : scratch + 6], before[:, :, : scratch + 6])
