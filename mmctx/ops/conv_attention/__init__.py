"""Faster forms of CoaT's conv-attention and of its position encodings.

Their reference implementations are the layers themselves, in
:mod:`mmctx.models.layers.conv_attention`.
"""
