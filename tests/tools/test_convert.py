import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from mmctx import get_backbone, get_model
from mmctx.engine import cli
from tests.helpers.parity import Fixture

TOOL = Path(__file__).parents[2] / 'tools/model_converters/convert.py'


@pytest.fixture(scope='module')
def convert():
    spec = importlib.util.spec_from_file_location('convert_tool', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *argv: cli.run(module.main, [str(a) for a in argv])


@pytest.fixture(scope='module')
def released(tmp_path_factory):
    path = tmp_path_factory.mktemp('released') / 'model.pth.tar'
    weights = Fixture('se_cotnetd_50').released
    averaged = {k: v + 1 for k, v in weights.items()}
    torch.save(dict(state_dict=weights, state_dict_ema=averaged), path)
    return path


def test_recognised_and_mapped(convert, released, tmp_path, capsys):
    out = tmp_path / 'new' / 'converted.pth'
    assert convert(released, out) == 0
    printed = capsys.readouterr().out
    assert 'is se_cotnetd_50' in printed
    assert 'backbone.stages.3' in printed and 'head.fc' in printed
    state = torch.load(out, weights_only=True)['state_dict']
    get_model('se_cotnetd_50').load_state_dict(state, strict=True)
    cfg = dict(type='Pretrained', checkpoint=str(out))
    get_backbone('se_cotnetd_50', init_cfg=cfg).init_weights()


def test_averaged_weights(convert, released, tmp_path):
    convert(released, tmp_path / 'a.pth')
    convert(released, tmp_path / 'b.pth', '--ema', '--model', 'se_cotnetd_50')
    a, b = (
        torch.load(tmp_path / f, weights_only=True)['state_dict']
        for f in ('a.pth', 'b.pth')
    )
    torch.testing.assert_close(b['head.fc.bias'], a['head.fc.bias'] + 1)


def test_refusals_are_one_line_and_write_nothing(
    convert, released, tmp_path, capsys
):
    weights = Fixture('cotnet50').released
    strange = tmp_path / 'strange.pth'
    torch.save({**weights, 'extra.weight': torch.zeros(1)}, strange)
    (tmp_path / 'file').touch()
    for argv, message in (
        ([strange, 'out.pth'], 'extra.weight'),
        ([strange, 'out.pth', '--model', 'cotnet50'], 'extra.weight'),
        ([released, 'out.pth', '--model', 'cotnet51'], 'Did you mean'),
        ([tmp_path / 'strang.pth', 'out.pth'], 'did you mean'),
        ([released, 'file/out.pth'], 'cannot write'),
    ):  # fmt: skip
        out = tmp_path / argv[1]
        assert convert(argv[0], out, *argv[2:]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count('\n') == 1
        assert not out.exists()


def test_typo_in_a_flag(convert, capsys):
    with pytest.raises(SystemExit) as stop:
        convert('a', 'b', '--modle', 'c')
    assert stop.value.code == 2
    assert 'did you mean --model' in capsys.readouterr().err
    assert 'convert_tool' not in sys.modules
