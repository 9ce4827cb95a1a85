"""What a network does on a GPU, recorded on tensors without data."""

import collections
import contextlib
import heapq
import math
from dataclasses import dataclass
from typing import Any, Optional
from unittest import mock

import torch
import torch.nn.functional as F
from torch._library.custom_ops import OPDEFS
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from mmctx.ops import triton_support
from tools.analysis_tools._gpu_kernels import FLOPS

HALF = (torch.float16, torch.bfloat16)
#: Arguments that CUDA's implementation reads once more than its signature
#: says, for statistics or for a second gradient, and its kernels.
REREAD = {
    'native_group_norm': ((0,), 3),
    'native_group_norm_backward': ((0, 1), 4),
    'native_layer_norm_backward': ((0, 1), 2),
    'native_batch_norm_backward': ((0, 1), 1),
    'cudnn_batch_norm_backward': ((0, 1), 1),
}
BATCH_NORMS = ('native_batch_norm', 'cudnn_batch_norm')
#: Classes of layers that are off: their branches always count.
SKIPPED = ('DropPath', 'StochasticDepth')
#: Operators that write without reading what they are called on.
FILLS = ('zero_', 'fill_', 'bernoulli_', 'uniform_', 'normal_', 'random_')


@dataclass
class Cost:
    """One operator, or one launch of a kernel of mmctx.

    Attributes:
        name (str): What costs are summed up by.
        bytes (int): Read and written, every element once.
        flops (int): Of convolutions and matrix products.
        launches (int): Kernels.
        inputs, outputs (list[Tensor]): Without data.
        variant (Variant, optional): Of a kernel of mmctx.
        programs (int): Of that.
    """

    name: str
    bytes: int
    flops: int = 0
    launches: int = 1
    inputs: Any = ()
    outputs: Any = ()
    variant: Optional[Any] = None
    programs: int = 0


def size_of(x):
    """Bytes of a tensor; expanded dimensions count once."""
    sizes = zip(x.shape, x.stride())
    return x.element_size() * math.prod(n for n, s in sizes if s or n == 0)


def _tensors(*trees):
    return [x for x in tree_leaves(trees) if isinstance(x, torch.Tensor)]


def _moves_nothing(func, name, inputs, outputs):
    """Whether an operator only makes a view or takes memory."""
    if func.is_view or name.startswith(('empty', 'new_empty', 'as_strided')):
        return True
    if func.namespace == 'prim' or not outputs or func._schema.is_mutable:
        return not outputs
    storages = {x.untyped_storage()._cdata for x in inputs}
    return {x.untyped_storage()._cdata for x in outputs} <= storages


def _read(name, args, inputs):
    """What an operator reads, as often as it does, and its launches."""
    if name in FILLS or name.endswith('_like') or name.startswith('new_'):
        return [], 1
    if name == 'copy_':
        return inputs[1:], 1
    if name in BATCH_NORMS and args[5]:  # training
        return [*inputs, inputs[0]], 1
    again, launches = REREAD.get(name, ((), 1))
    return [*inputs, *(args[i] for i in again)], launches


def _kind(weight, groups):
    if groups == 1:
        return 'x'.join(map(str, weight.shape[2:]))
    return 'depthwise' if weight.shape[1] == 1 else 'grouped'


def _convolution(args, out):
    x, weight, bias = args[:3]
    flops = 2 * out.numel() * weight[0].numel()
    moved = sum(map(size_of, (x, weight, out)))
    name = f'conv {_kind(weight, args[8])}'
    yield Cost(name, moved, flops, 1, [x, weight], [out])
    if bias is not None:  # cuDNN's convolution first, then in place
        yield Cost('conv bias', 2 * size_of(out), 0, 1, [bias], [out])


def _convolution_backward(args, outputs):
    grad, x, weight = args[:3]
    of_x, of_weight, of_bias = args[10]
    products = of_x + of_weight
    moved = products * sum(map(size_of, (grad, x, weight)))
    yield Cost(
        f'conv backward {_kind(weight, args[9])}',
        moved + of_bias * size_of(grad),
        products * 2 * grad.numel() * weight[0].numel(),
        products + of_bias,
        [grad, x, weight],
        outputs,
    )


def _costs(func, args, kwargs, out):
    """An operator of PyTorch as :class:`Cost`."""
    name = func._schema.name.split('::')[1]
    inputs, outputs = _tensors(args, kwargs), _tensors(out)
    if _moves_nothing(func, name, inputs, outputs):
        return
    if name == 'convolution':
        yield from _convolution(args, out)
        return
    if name == 'convolution_backward':
        yield from _convolution_backward(args, outputs)
        return
    read, launches = _read(name, args, inputs)
    moved = sum(map(size_of, [*read, *outputs]))
    if name == 'native_group_norm' and not inputs[0].is_contiguous():
        # CUDA's takes contiguous feature maps and copies others.
        moved, launches = moved + 2 * size_of(inputs[0]), launches + 1
    flops = 0
    if func._overloadpacket in flop_registry:
        count = flop_registry[func._overloadpacket]
        flops = count(*args, **kwargs, out_val=out)
    yield Cost(name, moved, flops, launches, inputs, outputs)


class Recorder(TorchDispatchMode):
    """Records operators, and what those of mmctx launch.

    Args:
        variants (Variants): Takes the launches.
    """

    def __init__(self, variants):
        super().__init__()
        self.variants, self.costs, self.owner = variants, [], ''

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == 'mmctx':
            return self._run_ours(func, args, kwargs)
        out = func(*args, **kwargs)
        for cost in _costs(func, args, kwargs, out):
            cost.name = self.owner + cost.name
            self.costs.append(cost)
        return out

    def _run_ours(self, func, args, kwargs):
        """Run the implementation, whose launches need no data."""
        name = func._schema.name
        before, self.owner = self.owner, name.split('::')[1] + ': '
        try:
            with self:
                return OPDEFS[name]._init_fn(*args, **kwargs)
        finally:
            self.owner = before

    def launch(self, kernel, programs, args, kwargs):
        variant = self.variants.launch(kernel, programs, args, kwargs)
        tensors = _tensors(args, kwargs)
        count = FLOPS.get(variant.name, lambda _: 0)
        self.costs.append(
            Cost(
                self.owner + variant.name,
                sum(map(size_of, {id(x): x for x in tensors}.values())),
                count({**dict(zip(kernel.arg_names, args)), **kwargs}),
                inputs=tensors,
                variant=variant,
                programs=programs,
            )
        )


class _FusedAttention(TorchFunctionMode):
    """On a GPU attention is a kernel; PyTorch asks a device that is not there.

    Flash attention in half precision without a bias, else the
    memory-efficient kernel.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return _fused_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _fused_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False,
    scale=None, **_,
):  # fmt: skip
    if torch.is_autocast_enabled('cuda'):
        dtype = torch.get_autocast_dtype('cuda')
        query, key, value = (x.to(dtype) for x in (query, key, value))
        attn_mask = None if attn_mask is None else attn_mask.to(dtype)
    options = dict(is_causal=is_causal, scale=scale)
    if attn_mask is None and query.dtype in HALF:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, **options)[0]
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    needs_grad = torch.is_grad_enabled()
    inputs = query, key, value, attn_mask, needs_grad, dropout_p
    return efficient(*inputs, **options)[0]


def _conv_backends():
    """cuDNN's, without asking what the device supports."""
    cudnn = torch._C._ConvBackend.Cudnn
    name = '_select_conv_backend'
    return mock.patch.object(torch._C, name, lambda *_, **__: cudnn)


@contextlib.contextmanager
def _autocast(dtype):
    """torch.autocast, which is off where there is no GPU."""
    before = torch.is_autocast_enabled('cuda')
    torch.set_autocast_enabled('cuda', dtype is not None)
    if dtype is not None:
        torch.set_autocast_dtype('cuda', dtype)
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled('cuda', before)


class Network:
    """A model on a GPU that is not there: tensors have shapes, but no data.

    Stochastic depth is off, so that every block is counted.

    Args:
        model (nn.Module): Takes images. Of no use elsewhere afterwards.
        amp (torch.dtype, optional): Of automatic mixed precision.
        channels_last (bool): The memory format.
    """

    def __init__(self, model, amp=None, channels_last=False):
        self.amp, self.mode = amp, FakeTensorMode()
        self.memory_format = torch.contiguous_format
        if channels_last:
            self.memory_format = torch.channels_last
        model.to(memory_format=self.memory_format)
        with self.mode:
            self.model = model._apply(_on_gpu)

    def costs(self, shape, train, variants):
        """Costs of an evaluation, or of a forward and backward pass.

        Args:
            shape (tuple[int]): Of the images, (N, 3, H, W).
            train (bool): Whether to run the backward pass, too.
            variants (Variants): Takes the launches of mmctx's kernels.

        Returns:
            list[Cost]: In order.

        Raises:
            RuntimeError: An operator waits for the GPU, or the shape of its
                result depends on data; PyTorch names it.
        """
        recorder = Recorder(variants)
        self.model.train(train)
        for module in self.model.modules():
            if type(module).__name__ in SKIPPED:
                module.eval()
        launching = triton_support.launching(recorder.launch)
        with self.mode, _conv_backends(), _FusedAttention(), launching:
            x = torch.empty(shape, device='cuda')
            x = x.to(memory_format=self.memory_format)
            with recorder, torch.set_grad_enabled(train), _autocast(self.amp):
                outputs = self.model(x)
            if train:
                with recorder, torch.no_grad():
                    _backward(_tensors(outputs))
        return recorder.costs


def _on_gpu(x):
    size = x.shape, x.stride()
    return torch.empty_strided(*size, dtype=x.dtype, device='cuda')


def _backward(outputs):
    """Walk autograd's graph; its engine asks for the streams of a device.

    Gradients of parameters are computed and dropped.
    """
    received = collections.defaultdict(dict)
    for output in outputs:
        if output.grad_fn is not None:
            grad = torch.empty_like(output)
            _receive(received, output.grad_fn, output.output_nr, grad)
    waits, nodes = collections.Counter(), list(received)
    seen = set(nodes)
    while nodes:
        for node, _ in nodes.pop().next_functions:
            waits[node] += 1
            if node is not None and node not in seen:
                seen.add(node)
                nodes.append(node)
    ready = [(-n._sequence_nr(), id(n), n) for n in received if not waits[n]]
    heapq.heapify(ready)
    while ready:
        _, _, node = heapq.heappop(ready)
        edges = node.next_functions
        results = _differentiate(node, received.pop(node, {}))
        for (after, index), grad in zip(edges, results):
            if after is None:
                continue
            if grad is not None:
                _receive(received, after, index, grad)
            waits[after] -= 1
            if not waits[after] and not hasattr(after, 'variable'):
                entry = -after._sequence_nr(), id(after), after
                heapq.heappush(ready, entry)


def _receive(received, node, index, grad):
    expected = node._input_metadata[index]
    grad = grad.sum_to_size(expected.shape).to(expected.dtype)
    before = received[node].get(index)
    received[node][index] = grad if before is None else before + grad


def _differentiate(node, grads):
    """Gradients for each of a node's edges, or None."""
    edges = node.next_functions
    if not grads:
        return [None] * len(edges)
    inputs = [grads.get(i) for i in range(len(node._input_metadata))]
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        results = node(*inputs)
        return results if isinstance(results, tuple) else (results,)
    results = node.apply(*inputs)
    results = results if isinstance(results, tuple) else (results,)
    # One for each argument, tensor or not; edges are of tensors.
    needed = iter(g for g, n in zip(results, node.needs_input_grad) if n)
    return [None if edge is None else next(needed) for edge, _ in edges]
