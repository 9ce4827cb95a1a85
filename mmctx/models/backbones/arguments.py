"""What the arguments of a backbone may be."""

from collections.abc import Collection, Sequence
from inspect import signature
from typing import Any, Optional, Union

from mmctx.models.layers.norms import refuse_norm
from mmctx.suggestions import did_you_mean

NUM_STAGES = 4


class BackboneArguments:
    """Checks of arguments that all backbones have."""

    #: Variants by name, for :meth:`_resolve_arch`.
    arch_settings: dict[Any, Any] = {}
    #: Default norm layers.
    default_norm = dict(type='BN')

    @classmethod
    def _say_unknown(cls, unknown: Collection[str]) -> str:
        """What to do about arguments that the class does not have."""
        if '_delete_' in unknown:
            return (
                f'{cls.__name__} got _delete_: there is no backbone in a '
                '_base_ that it could delete. Remove it.'
            )
        own = {
            name
            for base in cls.__mro__
            if issubclass(base, BackboneArguments)
            for name, parameter in signature(base.__init__).parameters.items()
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        }
        first = next(iter(unknown))
        return (
            f'{cls.__name__} got an unexpected keyword argument '
            f'{", ".join(map(repr, unknown))}.{did_you_mean(first, own)} If '
            "it comes from another backbone in a config's _base_, replace "
            'that one as a whole: '
            f'backbone=dict(_delete_=True, type={cls.__name__!r}, ...).'
        )

    @classmethod
    def _resolve_arch(
        cls,
        arch: Union[str, dict],
        per_stage: Sequence[str],
        depths: str = 'depths',
        others: Sequence[str] = (),
        **defaults: Any,
    ) -> dict:
        """A variant by name, or a checked dict of the same form.

        Args:
            arch (str or dict): A key of ``arch_settings``, or a dict.
            per_stage (Sequence[str]): Keys that hold one value per stage.
            depths (str): The one that holds the number of blocks. Defaults to
                'depths'.
            others (Sequence[str]): Further required keys.
            **defaults: Optional keys and their defaults.

        Raises:
            ValueError: ``arch`` is neither.
        """
        name = cls.__name__
        config = cls.arch_settings.get(arch) if isinstance(arch, str) else arch
        required = {*per_stage, *others}.difference(defaults)
        if (
            not isinstance(config, dict)
            or not required <= set(config) <= required.union(defaults)
            or any(
                len(config[key]) != NUM_STAGES
                for key in per_stage
                if key in config
            )
        ):
            options = f' and, optionally, {sorted(defaults)}' * bool(defaults)
            raise ValueError(
                f'{name} arch must be one of {list(cls.arch_settings)}, or a '
                f'dict with {sorted(required)}{options}, four values (one per '
                f'stage) in each of {list(per_stage)}, got {arch!r}.'
                f'{did_you_mean(arch, cls.arch_settings)}'
            )
        if any(depth < 1 for depth in config[depths]):
            raise ValueError(
                f'{name} {depths} must be positive, got {config[depths]}.'
            )
        return {**defaults, **config}

    @classmethod
    def _resolve_norm_cfg(cls, norm_cfg: Optional[dict]) -> dict:
        norm_cfg = norm_cfg or cls.default_norm
        if cls.default_norm['type'] == 'LN':
            accepted = (
                "dict(type='LN', ...), as it normalises each pixel over its "
                'channels'
            )
            reason = refuse_norm(norm_cfg, 1, -1)
            if not reason and norm_cfg['type'] != 'LN':
                reason = 'that is another norm'
        else:
            accepted = (
                "a norm of feature maps such as dict(type='BN'), 'SyncBN' or "
                "dict(type='GN', num_groups=...)"
            )
            # (N, C, 1, 1) is what a small image ends in.
            reason = refuse_norm(norm_cfg, 2, -1, 1, 1)
        if reason:
            raise ValueError(
                f'{cls.__name__} norm_cfg must be {accepted}, got '
                f'{norm_cfg!r}: {reason}.'
            )
        return norm_cfg

    @staticmethod
    def _resolve_out_indices(
        out_indices: Union[int, Sequence[int]],
    ) -> tuple[int, ...]:
        if isinstance(out_indices, int):
            out_indices = (out_indices,)
        valid = range(-NUM_STAGES, NUM_STAGES)
        if (
            not isinstance(out_indices, Sequence)
            or not out_indices
            or any(i not in valid for i in out_indices)
        ):
            raise ValueError(
                'out_indices must be one or more stages from 0 to '
                f'{NUM_STAGES - 1} (or negative, from the last), got '
                f'{out_indices!r}.'
            )
        resolved = tuple(int(i) % NUM_STAGES for i in out_indices)
        if list(resolved) != sorted(set(resolved)):
            raise ValueError(
                'out_indices must be in ascending order without repeats, '
                f'got {out_indices!r}.'
            )
        return resolved
