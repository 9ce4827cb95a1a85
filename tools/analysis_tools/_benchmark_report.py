"""Tables and pictures of what benchmark.py measures."""

from pathlib import Path
from typing import Optional, Union


def _markdown(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ['---'] * len(head), *lines]
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def _spread(row: dict) -> str:
    low, high = row['spread']
    return f'{low:.2f} to {high:.2f}'


def _ratio(value) -> str:
    return 'not measured' if value is None else f'{value:.2f}'


def model_table(rows: list[dict], peer: str) -> str:
    return _markdown(
        ['case', 'model', f'images/s, of {peer}', 'range over rounds',
         'peak extra memory, of the same', 'first call, s'],
        [[row['case'], row['model'], _ratio(row['speed_ratio']),
          _spread(row), _ratio(row['peak_ratio']),
          f'{row["first_seconds"]:.1f}'] for row in rows],
    )  # fmt: skip


def operator_table(rows: list[dict]) -> str:
    return _markdown(
        ['case', 'operator', 'feature map', 'peer', 'speed, of the peer',
         'range over rounds', 'GB/s', "of a copy's GB/s",
         'peak extra memory, of the peer', 'first call, s'],
        [[row['case'], row['operator'], row['map'], row['peer'],
          _ratio(row['speed_ratio']), _spread(row), f'{row["gb_per_s"]:.1f}',
          f'{row["copy_share"]:.2f}', _ratio(row['peak_ratio']),
          f'{row["first_seconds"]:.1f}'] for row in rows],
    )  # fmt: skip


def runtime_table(rows: list[dict], peer: str) -> str:
    return _markdown(
        ['case', 'model', 'runtime', 'ms', f'speed, of {peer} in the same',
         'range over rounds', 'speed, of eager', 'difference from eager',
         'same top class'],
        [[row['case'], row['model'], row['runtime'], *_deployed(row)]
         for row in rows],
    )  # fmt: skip


def _deployed(row: dict) -> list[str]:
    difference, share = row.get('difference'), row.get('same_class')
    return [
        row.get('error') or f'{row["seconds"] * 1000:.0f}',
        _optional(row['speed_ratio'], '.2f'),
        _spread(row) if row['speed_ratio'] else '',
        _optional(row['eager_ratio'], '.2f'),
        _optional(difference, '.0e'),
        _optional(share, '.0%'),
    ]


def _optional(value: Optional[float], form: str) -> str:
    return '' if value is None else format(value, form)


def _label(row: dict) -> str:
    name = row.get('model') or f'{row["operator"]} {row["map"]}'
    runtime = f' in {row["runtime"]}' if 'runtime' in row else ''
    return f'{name}{runtime}, {row["case"]}'


def plot(rows: list[dict], out_file: Union[str, Path], title: str) -> None:
    """Bars of the speed ratios, with their range; the peer is the line at 1.

    Args:
        rows (list[dict]): Figures of models and operators.
        out_file (str | Path): The picture; its suffix sets the format.
        title (str): What was measured, and where.
    """
    # Figure rather than pyplot, which may need a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.5 + 0.3 * len(rows)), layout='constrained')
    axes = figure.subplots()
    ratios = [row['speed_ratio'] for row in rows]
    reach = [
        [row['speed_ratio'] - row['spread'][0] for row in rows],
        [row['spread'][1] - row['speed_ratio'] for row in rows],
    ]
    axes.barh([_label(row) for row in rows], ratios, xerr=reach, capsize=2)
    axes.axvline(1, color='black', linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel(f'speed, of the peer ({_peers(rows)})')
    axes.set_title(title, fontsize='small')
    axes.grid(axis='x', alpha=0.3)
    figure.savefig(out_file, dpi=100)


def _peers(rows: list[dict]) -> str:
    return ', '.join(dict.fromkeys(row['peer'] for row in rows))
