# The stock runtime of mmdet, with the classes of mmctx registered.
_base_ = 'mmdet::_base_/default_runtime.py'

default_hooks = dict(checkpoint=dict(type='ResumableCheckpoint'))
custom_imports = dict(imports=['mmctx'], allow_failed_imports=False)
