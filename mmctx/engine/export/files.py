"""Files of three formats, with metadata, and how to run them."""

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import torch
from torch import Tensor

from .network import Network, Refusal

#: Ends of the names of files.
FORMATS = {'onnx': '.onnx', 'torch_export': '.pt2', 'torchscript': '.pt'}
#: Smallest side of an image.
MIN_SIZE = 32
MAX_BATCH, MAX_SIZE = 1024, 8192
#: Image of which dynamic sizes are recorded, without data: large, odd, and
#: no side of a feature map or a grid of windows equals another.
EXAMPLE = 3, 356, 580
METADATA = 'mmctx.json'


def example(network: Network, shape: Sequence[int]) -> Tensor:
    """An image batch (N, 3, H, W) of the dtype that a network takes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(
        256, (*shape[:1], 3, *shape[1:]), generator=generator
    )
    if network.takes_pixels:
        return pixels.to(torch.uint8)
    return pixels.float() / 64 - 2


def _export(network: Network, shape: Sequence[int], dynamic: bool) -> Any:
    """The program that torch.export records."""
    if not dynamic:
        return torch.export.export(
            network, (example(network, (1, *shape)),), strict=False
        )
    dims = torch.export.Dim
    sizes = dims.DYNAMIC(min=MIN_SIZE, max=MAX_SIZE)
    program = torch.export.export(
        network,
        (example(network, EXAMPLE),),
        dynamic_shapes=(
            {0: dims.DYNAMIC(min=1, max=MAX_BATCH), 2: sizes, 3: sizes},
        ),
        strict=False,
    )
    _keep_equalities(program)
    return program


def _keep_equalities(program: Any) -> None:
    """Drop guards that sizes differ, from one another or from 1.

    They come from the strides of tensors, which matter to no operator. One
    that demands a certain size would, and stays.
    """
    from torch.utils._sympy.value_ranges import ValueRanges

    guards = program._guards_code
    guards[:] = [guard for guard in guards if ' == ' in guard]
    ranges = program.range_constraints
    for symbol, range_ in list(ranges.items()):
        for lower, upper in ((1, MAX_BATCH), (MIN_SIZE, MAX_SIZE)):
            if range_.upper == upper:
                ranges[symbol] = ValueRanges(lower, upper)


def _save_onnx(network, path, shape, dynamic, metadata) -> None:
    require_onnx()
    for name in ('onnxscript', 'onnx_ir'):  # they warn of each norm
        logging.getLogger(name).setLevel(logging.ERROR)
    program = torch.onnx.export(
        _export(network, shape, dynamic),
        dynamo=True,
        verbose=False,
        input_names=['images'],
        output_names=list(network.outputs),
    )
    program.model.metadata_props.update(metadata)
    program.save(path)


def _save_program(network, path, shape, dynamic, metadata) -> None:
    program = _export(network, shape, dynamic)
    files = {METADATA: json.dumps(metadata)}
    torch.export.save(program, path, extra_files=files)


def _save_script(network, path, shape, dynamic, metadata) -> None:
    x = example(network, (2 if dynamic else 1, *shape))
    module = torch.jit.trace(network, x, check_trace=False)
    files = {METADATA: json.dumps(metadata)}
    torch.jit.save(module, str(path), _extra_files=files)


_WRITERS: dict[str, Callable] = {
    'onnx': _save_onnx,
    'torch_export': _save_program,
    'torchscript': _save_script,
}


def require_onnx() -> None:
    """Raise a Refusal without the packages that write and run ONNX."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise Refusal(
            f'--to onnx needs {error.name}: pip install "mmctx[export]"'
        ) from error


def save(
    network: Network,
    path: Path,
    to: str,
    shape: Sequence[int],
    dynamic: bool,
    metadata: dict[str, str],
) -> None:
    """Write a network to a file.

    Args:
        network (Network): From :func:`build`.
        path (Path): The file.
        to (str): One of :data:`FORMATS`.
        shape (Sequence[int]): Height and width of the images.
        dynamic (bool): Take batches of images of any size instead.
        metadata (dict[str, str]): What the file says of itself.

    Raises:
        Refusal: The exporter cannot record the network.
    """
    if to != 'torchscript' and any(
        type(part).__module__.startswith('torch.ao.nn.quantized')
        for part in network.modules()
    ):
        raise Refusal(
            f'{to} has no layers of torch.ao.quantization: export the model '
            'before it is quantised, and quantise the file '
            '(onnxruntime.quantization), or export --to torchscript'
        )
    network.fixed_shape = None if dynamic else tuple(shape)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore')
            _WRITERS[to](network, path, shape, dynamic, metadata)
    except Refusal:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or ['']
        raise Refusal(
            f'{to} cannot record this model: {type(error).__name__}: '
            f'{reason[0]}'
        ) from error


def read(
    path: Path, threads: Optional[int] = None
) -> tuple[Callable[[Tensor], list[Tensor]], dict[str, str]]:
    """A file as a function of images, and its metadata."""
    path = Path(path)
    files = {METADATA: ''}
    if path.suffix == '.onnx':
        return _read_onnx(path, threads)
    if path.suffix == '.pt2':
        module = torch.export.load(path, extra_files=files).module()
    else:
        import torchvision  # noqa: F401  (its operators)

        module = torch.jit.load(str(path), _extra_files=files)

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(module(images))

    return run, json.loads(files[METADATA])


def _read_onnx(path: Path, threads: Optional[int]) -> tuple[Callable, dict]:
    require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 4  # What is wrong is raised, too.
    session = onnxruntime.InferenceSession(
        str(path), options, providers=['CPUExecutionProvider']
    )

    def run(images: Tensor) -> list[Tensor]:
        outputs = session.run(None, {'images': images.numpy()})
        return [torch.from_numpy(x) for x in outputs]

    return run, dict(session.get_modelmeta().custom_metadata_map)
