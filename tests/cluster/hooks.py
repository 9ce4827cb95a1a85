"""Hooks of the configs in these tests."""

import time

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Slow(Hook):
    """Gives a test the time to interrupt training, or fails in rank 1."""

    def __init__(self, seconds, fails=False):
        self.seconds = seconds
        self.fails = fails

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        time.sleep(self.seconds)
        if self.fails and runner.iter == 1 and get_rank() == 1:
            raise RuntimeError('the second process has had enough')
