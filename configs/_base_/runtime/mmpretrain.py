# The stock runtime of mmpretrain, with the classes of mmctx registered.
_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(imports=['mmctx'], allow_failed_imports=False)
