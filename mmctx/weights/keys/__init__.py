"""Keys of released files in ours, one file per family.

A key map takes all keys of a file and returns the function from one of them
to its key in our classifier: below ``backbone.``, ``neck.`` or ``head.``. A
key comes back empty if our networks have no use for its tensor, and under a
name that no network has if it belongs to another family.
"""

import re
from collections.abc import Callable, Iterable
from typing import Union

Rule = tuple[str, Union[str, Callable[[re.Match], str]]]


def renamer(rules: Iterable[Rule]) -> Callable[[str], str]:
    """The function that applies substitutions, in order, to a key.

    Args:
        rules (Iterable[tuple]): Regular expressions and what ``re.sub`` puts
            in their place. One that matches a whole key and puts nothing
            there leaves the key out.
    """
    compiled = [(re.compile(pattern), by) for pattern, by in rules]

    def rename(key: str) -> str:
        for pattern, by in compiled:
            key = pattern.sub(by, key)
        return key

    return rename
