"""mmcv's fuse_conv_bn, on every backbone."""

import copy

import pytest
import torch
from mmcv.cnn import fuse_conv_bn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.helpers.backbones import TINY, build_tiny

#: Has norms behind convolutions whose weights change with the image.
REFUSED = ('ContextualResNet',)


@pytest.mark.parametrize('name', sorted(TINY))
def test_folded_norms_change_nothing(name):
    torch.manual_seed(0)
    model = build_tiny(name).eval()
    for key, parameter in model.named_parameters():
        if parameter.dim() == 1 or 'predictor' in key:
            torch.nn.init.normal_(parameter, std=0.2)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    model.double()
    fused = fuse_conv_bn(copy.deepcopy(model))
    x = torch.randn(2, 3, 64, 96, dtype=torch.double)
    with torch.no_grad():
        if name in REFUSED:
            with pytest.raises(ValueError, match='fuse_conv_bn cannot fold'):
                fused(x)
            return
        for a, b in zip(fused(x), model(x)):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
