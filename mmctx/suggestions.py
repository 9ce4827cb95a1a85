"""The nearest names to one that does not exist."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def did_you_mean(name: Any, names: Iterable[Any], count: int = 3) -> str:
    """``' Did you mean X or Y?'``, or nothing if no name is near.

    Args:
        name (Any): What was given.
        names (Iterable): What exists, in the type in which it is written.
        count (int): The most names to give. Defaults to 3.
    """
    written = {str(option): repr(option) for option in names}
    near = get_close_matches(str(name), written, count, cutoff=0.5)
    if not near:
        return ''
    return f' Did you mean {" or ".join(written[text] for text in near)}?'
