# Without SyncBN: batch statistics are averaged over processes every epoch.
_base_ = './mmpretrain.py'

default_hooks = dict(sync_buffers=dict(type='SyncBuffersHook'))
