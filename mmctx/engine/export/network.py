"""What all exported networks share."""

from contextlib import nullcontext
from typing import Any, Optional

import torch
from torch import Tensor, nn

from ..cli import UserError
from .pooling import SizeFreePooling


class Refusal(UserError):
    """What cannot be exported, and why."""


def own(part: Any, *classes: type) -> None:
    """Raise a Refusal unless a part is exactly of one of some classes."""
    if type(part) not in classes:
        names = ', '.join(c.__name__ for c in classes)
        raise Refusal(f'{type(part).__name__}: only {names} is exported')


def _of_shape(images: Tensor, height: int, width: int) -> Tensor:
    """Images, if they have a size; recorded with its branch."""

    @torch.jit.script
    def check(images: Tensor, height: int, width: int) -> Tensor:
        if images.shape[2] != height or images.shape[3] != width:
            raise ValueError('images must have the size in the metadata')
        return images

    return check(images, height, width)


class Network(nn.Module):
    """A model from images to a tuple of tensors.

    Attributes:
        task (str): What it does, in the words of the metadata.
        outputs (tuple[str]): Names of what it returns.
        is_half (bool): Compute in float16; input and output stay float32.
    """

    task = ''
    outputs: tuple[str, ...] = ()
    is_half = False
    #: Height and width of the images, if they cannot change.
    fixed_shape: Optional[tuple] = None

    def __init__(self) -> None:
        super().__init__()
        #: From uint8 pixels to normalised images, if it is :class:`Pixels`.
        self.preprocess: nn.Module = nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (N, C, H, W) to the outputs."""
        if self.fixed_shape is not None and torch.jit.is_tracing():
            images = _of_shape(images, *self.fixed_shape)
        with nullcontext() if self.fixed_shape else SizeFreePooling():
            outputs = self.run(self.preprocess(images))
        return tuple(
            x.float() if x.is_floating_point() else x for x in outputs
        )

    @property
    def takes_pixels(self) -> bool:
        """Whether it takes uint8 pixels."""
        return isinstance(self.preprocess, Pixels)

    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        """Normalised images to the outputs."""
        raise NotImplementedError

    def cast(self, x: Tensor) -> Tensor:
        """To the dtype of the parameters."""
        return x.to(torch.float16) if self.is_half else x


class Pixels(nn.Module):
    """Pixels to normalised images, as a data preprocessor does it.

    Args:
        mean (Sequence[float]): Per channel.
        std (Sequence[float]): Per channel.
        order (str): Channels of the pixels, 'rgb' or 'bgr'.
        swap (bool): The model's are in reverse order.
    """

    def __init__(self, mean: Any, std: Any, order: str, swap: bool) -> None:
        super().__init__()
        self.order = order
        self.swap = swap
        for name, values in dict(mean=mean, std=std).items():
            values = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, values)

    def forward(self, x: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to float32."""
        x = x.float()
        if self.swap:
            x = x.flip(1)
        return (x - self.mean) / self.std
