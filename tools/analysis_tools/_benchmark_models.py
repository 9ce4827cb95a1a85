"""The models that benchmark.py times, how they run and what they take."""

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import mmctx.ops
from mmctx.engine import cli
from mmctx.models.layers.norms import use_half_layer_norms

AMP_DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}
CLASSES = 1000


class Plain(torch.nn.Module):
    """A model of mmctx on reference implementations of operators.

    The logits of attention are in memory.

    Args:
        model (nn.Module): The model.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        with sdpa_kernel(SDPBackend.MATH), mmctx.ops.reference():
            return self.model(x)


def _own(name):
    """A name, if mmctx has it."""
    if name not in mmctx.list_models():
        raise cli.UserError(
            f'{name!r} is no model of mmctx, nor LIBRARY:NAME with one of '
            f'{", ".join(LIBRARIES)}; mmctx has '
            f'{", ".join(mmctx.list_models())}'
        )
    return name


def _ours(name):
    return mmctx.get_model(_own(name))


def _torchvision(name):
    import torchvision

    return torchvision.models.get_model(name)


def _timm(name):
    import timm

    return timm.create_model(name)


def _mmpretrain(name):
    import mmpretrain

    return mmpretrain.get_model(name)


def _half(name):
    model = _ours(name)
    use_half_layer_norms(model)
    return model


LIBRARIES = {
    'torchvision': _torchvision,
    'timm': _timm,
    'mmpretrain': _mmpretrain,
    'plain': lambda name: Plain(_ours(name)),
    'half': _half,
}


def build(name):
    """A classifier with random weights that maps images to logits."""
    library, _, model_name = name.rpartition(':')
    if library in LIBRARIES:
        return LIBRARIES[library](model_name)
    return _ours(name)


def build_backbone(name):
    """What a detector takes of a model: images to four feature maps."""
    library, _, model_name = name.rpartition(':')
    if library == 'timm':
        import timm

        return timm.create_model(model_name, features_only=True)
    if library == 'torchvision':
        return _torchvision_stages(_torchvision(model_name))
    return mmctx.get_backbone(_own(name))


def _torchvision_stages(model):
    from torchvision.models import ConvNeXt, ResNet, SwinTransformer
    from torchvision.models._utils import IntermediateLayerGetter

    if isinstance(model, ResNet):
        names = ['layer1', 'layer2', 'layer3', 'layer4']
    elif isinstance(model, (ConvNeXt, SwinTransformer)):
        model, names = model.features, ['1', '3', '5', '7']
    else:
        raise cli.UserError(
            f'{type(model).__name__}: of torchvision only ResNet, ConvNeXt '
            'and SwinTransformer are timed as backbones; timm:NAME may do'
        )
    return IntermediateLayerGetter(model, {name: name for name in names})


def prepare(name, mode, args):
    """A model, set up to run as the arguments say."""
    model = build(name).to(args.device).train(mode == 'train')
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if args.compile:
        model.compile(dynamic=False)
    return model


def place(x, args, dtype=None):
    """A tensor in the device, dtype and memory format of the arguments."""
    x = x.to(args.device, dtype)
    if args.channels_last and x.dim() == 4:
        return x.to(memory_format=torch.channels_last)
    return x


def step(model, mode, x, amp=None):
    """One evaluation, or one forward and backward pass.

    Gradients are discarded.
    """
    autocast = torch.autocast(
        x.device.type, AMP_DTYPES.get(amp), enabled=amp is not None
    )
    if mode == 'eval':
        with torch.inference_mode(), autocast:
            return model(x)
    target = torch.arange(len(x), device=x.device) % CLASSES
    with autocast:
        loss = F.cross_entropy(model(x), target)
    loss.backward()
    model.zero_grad()
    return None


def _resident(field):
    status = Path('/proc/self/status').read_text()
    return int(re.search(rf'{field}:\s+(\d+)', status)[1]) / 1024


def resident_growth(run):
    """MiB that a call adds to this process's resident set at its peak."""
    before = _resident('VmRSS')
    Path('/proc/self/clear_refs').write_text('5')  # reset the peak
    run()
    return _resident('VmHWM') - before


def _resident_peak(name, mode, shape, args, threads):
    torch.set_num_threads(threads)
    # Libraries load and start their threads with the first operators.
    small = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, CLASSES),
    )
    step(small, mode, place(torch.randn(2, 3, 32, 32), args), args.amp)
    model = prepare(name, mode, args)
    x = place(torch.randn(shape), args)
    return resident_growth(lambda: step(model, mode, x, args.amp))


def gpu_peak(run):
    """MiB that a call adds to PyTorch's allocations."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def peak_memory(run, name, mode, shape, args):
    """MiB that one step of a model adds, or None if unknown.

    ``run`` is the step in this process, for a GPU; on a CPU, a new process
    builds the model again.
    """
    if args.device == 'cuda':
        return gpu_peak(run)
    if args.compile:
        return None
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(
            _resident_peak,
            name,
            mode,
            shape,
            args,
            torch.get_num_threads(),
        ).result()
