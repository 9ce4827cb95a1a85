# The stock runtime of mmpretrain, with the classes of mmctx registered.
_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(imports=['mmctx'], allow_failed_imports=False)
# The newest three checkpoints, and the best one.
default_hooks = dict(
    checkpoint=dict(
        type='ResumableCheckpoint', max_keep_ckpts=3, save_best='auto'
    ),
)
