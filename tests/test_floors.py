"""Each part of the package imports only what stands below it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import mmctx

ROOT = Path(mmctx.__file__).parent

#: From the ground up; a name stands for what is below it, unless that has a
#: name of its own.
FLOORS = (
    (
        'mmctx.version',
        'mmctx.compatibility',
        'mmctx.registry',
        'mmctx.suggestions',
        'mmctx.experiments',
    ),
    ('mmctx.ops',),
    ('mmctx.weights',),
    ('mmctx.models.layers', 'mmctx.models.losses', 'mmctx.models.necks'),
    ('mmctx.models.backbones',),
    ('mmctx.models',),
    ('mmctx.zoo',),
    ('mmctx.checkpoints', 'mmctx.datasets', 'mmctx.visualization'),
    ('mmctx.engine',),
    ('mmctx',),
)
LEVEL = {name: i for i, names in enumerate(FLOORS) for name in names}


def sources(root: Path, package: str) -> dict[str, tuple[ast.Module, str]]:
    """Module names to syntax tree and package, nothing executed."""
    modules = {}
    for path in root.rglob('*.py'):
        parts = (package, *path.relative_to(root).with_suffix('').parts)
        own = '.'.join(parts[:-1])
        name = own if parts[-1] == '__init__' else '.'.join(parts)
        modules[name] = ast.parse(path.read_text()), own
    return modules


def imported(tree: ast.Module, own: str, modules) -> Iterator[str]:
    """Modules of the package that a module imports, at once or later."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and 'lazily' in ast.dump(node.func):
            # register_lazily(MODELS, f'{__name__}.part', 'Name')
            yield own + node.args[1].values[-1].value
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in modules)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ''
            if node.level:
                above = own.split('.')
                above = above[: len(above) - node.level + 1]
                source = '.'.join([*above, source] if source else above)
            for alias in node.names:
                part = f'{source}.{alias.name}'
                if part in modules or source in modules:
                    yield part if part in modules else source


def edges(modules) -> dict[str, set[str]]:
    return {
        name: {*imported(tree, own, modules)} - {name}
        for name, (tree, own) in modules.items()
    }


def level(module: str) -> int:
    while module not in LEVEL:
        module = module.rpartition('.')[0]
    return LEVEL[module]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that reach themselves, each once with all on its way."""
    reached = {}
    for start in graph:
        seen, rest = set(), [*graph[start]]
        while rest:
            module = rest.pop()
            if module not in seen:
                seen.add(module)
                rest += graph[module]
        reached[start] = seen
    return sorted(
        {
            tuple(sorted(m for m in reached[n] if n in reached[m]))
            for n in graph
            if n in reached[n]
        }
    )


def upward(graph: dict[str, set[str]]) -> list[str]:
    return sorted(
        f'{name} imports {other}'
        for name, others in graph.items()
        for other in others
        if level(other) > level(name)
    )


GRAPH = edges(sources(ROOT, 'mmctx'))


def test_no_import_circle():
    assert circles(GRAPH) == []


def test_no_upward_import():
    assert upward(GRAPH) == []


def test_the_walk_sees_every_form(tmp_path):
    for name, text in {
        '__init__': 'from . import zoo',
        'zoo': 'def late():\n    from mmctx.engine.cli import run',
        'engine/__init__': '',
        'engine/cli': 'from ..ops import linear',
        'models/__init__': (
            "register_lazily(MODELS, f'{__name__}.head', 'Head')"
        ),
        'models/head': 'import mmctx.models',
        'ops/__init__': '',
        'ops/linear': (
            'from typing import TYPE_CHECKING\n'
            'if TYPE_CHECKING:\n    import mmctx.zoo'
        ),
    }.items():
        path = tmp_path / f'{name}.py'
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    graph = edges(sources(tmp_path, 'mmctx'))
    assert circles(graph) == [
        ('mmctx.engine.cli', 'mmctx.ops.linear', 'mmctx.zoo'),
        ('mmctx.models', 'mmctx.models.head'),
    ]
    assert upward(graph) == [
        'mmctx.ops.linear imports mmctx.zoo',
        'mmctx.zoo imports mmctx.engine.cli',
    ]
