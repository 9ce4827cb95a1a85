"""The patch embedding now stands with the base class of the backbones."""

from mmctx.models.backbones.base import PatchEmbedding  # noqa: F401
