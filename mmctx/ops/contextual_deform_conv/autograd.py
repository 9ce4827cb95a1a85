"""The custom operators of the interface, and their gradients."""

from ..autograd import custom_operator, gradients_of, register_gradients
from ..precision import accumulation_dtype
from ..triton_support import at_first_use, empty_rows
from .reference import contextual_deform_conv_reference, contract_reference


def _empty_contraction(rows, index, corner, weight):
    n, groups, channels = weight.shape[:3]
    return rows.new_empty(n, index.shape[2], groups * channels)


def _empty_gradients_of_contract(grad, rows, index, corner, weight):
    return tuple(x.new_empty(x.shape) for x in (rows, corner, weight))


_contract, _contract_gradients = at_first_use(
    __package__, 'forward', 'backward', module='cpu'
)
_ROWS = 'Tensor rows, Tensor index, Tensor corner, Tensor weight'
#: As ``contract_reference``, on a CPU.
contract = custom_operator(
    f'contextual_contract({_ROWS}) -> Tensor', _contract, _empty_contraction
)
_contract_backward = custom_operator(
    f'contextual_contract_backward(Tensor grad, {_ROWS})'
    ' -> (Tensor, Tensor, Tensor)',
    _contract_gradients,
    _empty_gradients_of_contract,
)


def _gradients_of_contract(needed, grad, *inputs):
    of_rows, of_corner, of_weight = _contract_backward(grad, *inputs)
    return of_rows, None, of_corner, of_weight


register_gradients(contract, _gradients_of_contract, contract_reference)


_forward, _map_gradient, _sampling_gradients = at_first_use(
    __package__, 'forward', 'backward_of_map', 'backward_of_sampling'
)


def _depthwise_reference(x, offset, weight, bias, mask, geometry):
    pairs = geometry[:2], geometry[2:4], geometry[4:]
    return contextual_deform_conv_reference(
        x, offset, weight, bias, mask, *pairs
    )


def _without_bias(x, offset, weight, mask, geometry):
    return _depthwise_reference(x, offset, weight, None, mask, geometry)


def _empty_output(x, offset, weight, bias, mask, geometry):
    return empty_rows(x, offset.shape[2:])


def _empty_map_gradient(grad, x, offset, weight, mask, geometry):
    return empty_rows(x, x.shape[2:])


def _empty_sampling_gradients(grad, x, offset, weight, mask, geometry):
    of_mask = offset.new_empty(0) if mask is None else mask
    return tuple(v.new_empty(v.shape) for v in (offset, weight, of_mask))


# geometry: stride, padding and dilation, height before width each.
_INPUTS = (
    '(Tensor grad, Tensor x, Tensor offset, Tensor weight, Tensor? mask, '
    'int[] geometry)'
)
#: The depth-wise operator as Triton kernels.
depthwise = custom_operator(
    'contextual_depthwise_conv(Tensor x, Tensor offset, Tensor weight, '
    'Tensor? bias, Tensor? mask, int[] geometry) -> Tensor',
    _forward, _empty_output, _depthwise_reference,
)  # fmt: skip
_backward_of_map = custom_operator(
    f'contextual_depthwise_conv_backward_of_map{_INPUTS} -> Tensor',
    _map_gradient, _empty_map_gradient, gradients_of(_without_bias, 0),
)  # fmt: skip
_backward_of_sampling = custom_operator(
    f'contextual_depthwise_conv_backward_of_sampling{_INPUTS}'
    ' -> (Tensor, Tensor, Tensor)',
    _sampling_gradients, _empty_sampling_gradients,
    gradients_of(_without_bias, 1, 2, 3),
)  # fmt: skip


def _gradients_of_depthwise(
    needed, grad, x, offset, weight, bias, mask, geometry
):
    of_x = of_offset = of_weight = of_bias = of_mask = None
    inputs = grad, x, offset, weight, mask, geometry
    if needed[0]:
        of_x = _backward_of_map(*inputs)
    if needed[1] or needed[2] or needed[4]:
        of_offset, of_weight, of_mask = _backward_of_sampling(*inputs)
    if needed[3]:
        dtype = accumulation_dtype(grad, bias)
        of_bias = grad.sum((0, 2, 3), dtype=dtype).to(bias.dtype)
    return of_x, of_offset, of_weight, of_bias, of_mask if needed[4] else None


register_gradients(depthwise, _gradients_of_depthwise, _depthwise_reference)
