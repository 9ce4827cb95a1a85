"""tools/analysis_tools/benchmark.py.

Imported by its name, as processes that it spawns import it too.
"""

import json

import pytest
import torch

from mmctx.engine import cli
from tools.analysis_tools import benchmark


@pytest.mark.parametrize('name', ['contnet_ti', 'coat_lite_tiny'])
def test_plain_model_computes_the_same(name):
    plain = benchmark.build(f'plain:{name}').eval()
    x = torch.randn(2, 3, 64, 48)
    with torch.inference_mode():
        torch.testing.assert_close(
            plain(x), plain.model(x), rtol=1e-4, atol=1e-5
        )


def test_plain_model_holds_the_logits_of_attention():
    plain = benchmark.build('plain:contnet_ti').eval()
    with torch.inference_mode(), torch.profiler.profile() as profile:
        plain(torch.randn(1, 3, 64, 64))
    names = {event.key for event in profile.key_averages()}
    assert any('softmax' in name for name in names)
    assert not any('flash' in name for name in names)


def test_unknown_models_are_named():
    for name in ('resnet50', 'keras:resnet50'):
        with pytest.raises(cli.UserError, match=f"'{name}' is no model"):
            benchmark.build(name)


def test_figures_of_a_run(tmp_path, capsys):
    path = tmp_path / 'figures.json'
    benchmark.main(
        ['contnet_ti', '--peer', 'plain:contnet_ti', '--rounds', '1',
         '--cases', 'eval:1x32x32', '--json', str(path)]
    )  # fmt: skip
    peer, ours = json.loads(path.read_text())
    assert peer['model'] == 'plain:contnet_ti'
    assert peer['images_per_s_ratio'] == peer['peak_ratio'] == 1
    assert ours['seconds'] > 0 and ours['peak_mib'] > 0
    assert '| eval:1x32x32 | contnet_ti |' in capsys.readouterr().out
