"""Golden numbers of the released networks, and how to compare with them.

A fixture under ``data/parity`` lists the tensors of a released model, and what
that model computes once :func:`fill_tensor` has filled them from their names.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmctx import get_model
from mmctx.checkpoints import convert_state_dict, examine

FOLDER = Path(__file__).parents[1] / 'data' / 'parity'
#: Parameters by the key `rename` of the released name.
FLOAT32_TOLERANCE = 2e-5


def unit(name: str, shape) -> np.ndarray:
    """Uniform float64 values in [-1, 1) that depend on name and shape."""
    count = int(np.prod(shape, dtype=np.int64))
    bits = np.random.Philox(key=zlib.crc32(name.encode())).random_raw(count)
    return ((bits >> np.uint64(11)) * 2.0**-52 - 1.0).reshape(shape)


def fill_tensor(name: str, shape, dtype: str) -> Tensor:
    """The value that the fixtures give to a released tensor."""
    leaf = name.rsplit('.', 1)[-1]
    if leaf == 'num_batches_tracked':
        return torch.zeros(shape, dtype=torch.long)
    u = unit(name, tuple(shape))
    if leaf == 'running_mean' or leaf == 'bias':
        u = 0.1 * u
    elif leaf == 'running_var':
        u = 1 + 0.5 * np.abs(u)
    elif leaf == 'weight' and len(shape) == 1:
        u = 1 + 0.1 * u
    elif leaf == 'weight':
        u = u * np.sqrt(3 / np.prod(shape[1:]))
    else:
        u = 0.5 * u
    return torch.from_numpy(np.asarray(u)).to(getattr(torch, dtype))


def make_input(shape) -> Tensor:
    """The fixtures' image batch: smooth waves and uniform noise, float32."""
    n, c, h, w = shape
    i = np.arange(n).reshape(-1, 1, 1, 1)
    j = np.arange(c).reshape(1, -1, 1, 1)
    y = np.linspace(0, 1, h).reshape(1, 1, -1, 1)
    x = np.linspace(0, 1, w).reshape(1, 1, 1, -1)
    waves = np.sin(2 * np.pi * ((i + 1) * y + (j + 2) * x + 0.1 * i * j))
    return torch.from_numpy(waves + 0.5 * unit('input', shape)).float()


def sample(tensor: Tensor, count: int) -> Tensor:
    """``count`` evenly spaced entries of the flattened tensor, float64."""
    flat = tensor.detach().double().flatten()
    count = min(count, flat.numel())
    index = torch.arange(count) * (flat.numel() - 1) // max(count - 1, 1)
    return flat[index]


class Fixture:
    """One fixture file."""

    def __init__(self, name: str) -> None:
        self.name = name
        content = json.loads((FOLDER / f'{name}.json').read_text())
        self.released = {
            key: fill_tensor(key, shape, dtype)
            for key, shape, dtype in content['state_dict']
        }
        for alias, key in content.get('aliases', {}).items():
            self.released[alias] = self.released[key]
        self.cases = content['cases']

    def cases_of(self, *modes: str) -> list[dict]:
        return [case for case in self.cases if case['mode'] in modes]

    def fill(self, model: nn.Module) -> None:
        """Load the converted state, strictly, anew."""
        model.load_state_dict(
            convert_state_dict(self.released, self.name), strict=True
        )

    def model(self) -> nn.Module:
        model = get_model(self.name)
        self.fill(model)
        return model

    def our_names(self) -> dict[str, str]:
        """Released name to ours."""
        return examine(self.released, self.name).mapping


def check_output(got: Tensor, expected: dict, tolerance: float) -> None:
    """Compare a tensor with a fixture's summary of it."""
    assert list(got.shape) == expected['shape']
    reference = torch.tensor(expected['sample'], dtype=torch.float64)
    error = (sample(got, len(reference)) - reference).abs().max()
    assert error / reference.abs().max() <= tolerance
    norm = got.detach().double().norm().item()
    assert abs(norm / expected['norm'] - 1) <= tolerance


def probe(tensor: Tensor) -> Tensor:
    """The weights of the fixtures' loss, sum(output * probe)."""
    values = torch.from_numpy(unit('probe', tuple(tensor.shape)))
    return values.float().to(tensor.dtype)
