"""Ways to halve the resolution (paper, figure A1): space to depth, wavelets, CSP convolution."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv import BlockForm, ConvNormAct
from .registry import Registry


class SpaceToDepth(nn.Module):
    """Move every 2x2 block of pixels into the channels: (N, C, H, W) to (N, 4C, H/2, W/2).

    Published weights fix the order: the four groups of C channels are (row 0, col 0),
    (row 1, col 0), (row 0, col 1), (row 1, col 1); `torch.nn.functional.pixel_unshuffle` orders
    them otherwise. H and W must be even.
    """

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 2, 2, w // 2, 2)
        return x.permute(0, 5, 3, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


class Focus(nn.Module):
    """Space to depth, then a 3x3 convolution: the stem of YOLOv5.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output.
        form: norm and activation.
    """

    def __init__(self, in_channels: int, out_channels: int, *, form: BlockForm):
        super().__init__()
        self.rearrange = SpaceToDepth()
        self.conv = ConvNormAct(4 * in_channels, out_channels, 3, form=form)

    def chains(self) -> Iterator[list[nn.Module]]:
        """Layers that follow each other directly, see `layers.fuse`."""
        yield [self.rearrange, self.conv.conv, self.conv.norm]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.rearrange(x))


class HaarTransform(nn.Module):
    """One level of the Haar wavelet transform: (N, C, H, W) to (N, 4C, H/2, W/2).

    Of every 2x2 block (a b / c d) of a channel it gives the mean and three differences:

        low  = (a + b + c + d) / 4          h1 = (a + b - c - d) / 4 + 0.5
        h2   = (a - b + c - d) / 4 + 0.5    h3 = (a - b - c + d) / 4 + 0.5

    which is the orthonormal transform halved, so that an image in 0-1 stays in 0-1. Published
    weights fix the order: the C low-pass channels first, then h1, h2, h3 of each channel. H and W
    must be even.

    Args:
        channels: channels C of the input.
    """

    kernels: Tensor
    offsets: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        signs = torch.tensor(
            [
                [[1.0, 1.0], [1.0, 1.0]],
                [[1.0, 1.0], [-1.0, -1.0]],
                [[1.0, -1.0], [1.0, -1.0]],
                [[1.0, -1.0], [-1.0, 1.0]],
            ]
        )
        # Constants, so they are no parameters and are not saved: one group per input channel.
        kernels = (signs / 4).unsqueeze(1).repeat(channels, 1, 1, 1)  # (4C, 1, 2, 2)
        offsets = torch.tensor([0.0, 0.5, 0.5, 0.5]).repeat(channels)  # (4C,)
        self.register_buffer("kernels", kernels, persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        bands: Tensor = F.conv2d(x, self.kernels, self.offsets, stride=2, groups=self.channels)
        bands = bands.unflatten(1, (self.channels, 4))  # (N, C, 4, H/2, W/2)
        return torch.cat([bands[:, :, 0], bands[:, :, 1:].flatten(1, 2)], dim=1)

    def extra_repr(self) -> str:
        return f"channels={self.channels}"


class WaveletTransform(nn.Module):
    """One level of any wavelet transform, in the layout and scale of `HaarTransform`.

    Borders are continued periodically, which keeps the output at exactly half the size for filters
    of any length.

    Args:
        wavelet: a name that PyWavelets knows, such as "db2" or "bior1.3".

    Raises:
        ModuleNotFoundError: when pytorch_wavelets, which does the work, is not installed.
        ValueError: when there is no such wavelet.
    """

    def __init__(self, wavelet: str):
        super().__init__()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it imports the deprecated pkg_resources
                from pytorch_wavelets import DWTForward
        except ImportError as error:
            raise ModuleNotFoundError(
                f"the wavelet {wavelet!r} needs pytorch_wavelets ({error}); install it with "
                "`pip install 'yolor_d2[wavelets]'`, or use 'haar', which needs nothing"
            ) from error
        self.wavelet = wavelet
        try:
            self.transform = DWTForward(J=1, wave=wavelet, mode="periodization")
        except ValueError as error:
            raise ValueError(f"unknown wavelet {wavelet!r}: {error}") from error
        # Its filters are constants and must not become part of the weights.
        for name, values in list(self.transform.named_buffers()):
            self.transform.register_buffer(name, values, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        low, (high,) = self.transform(x)  # (N, C, H/2, W/2), (N, C, 3, H/2, W/2)
        return torch.cat([low / 2, high.flatten(1, 2) / 2 + 0.5], dim=1)

    def extra_repr(self) -> str:
        return f"wavelet={self.wavelet!r}"


def build_wavelet_transform(channels: int, wavelet: str = "haar") -> nn.Module:
    """A wavelet transform for inputs of so many channels; Haar is a plain convolution."""
    if wavelet in ("haar", "db1"):  # two names of one wavelet
        return HaarTransform(channels)
    return WaveletTransform(wavelet)


class CSPDownsample(nn.Module):
    """CSP convolution at stride 2: a 3x3 convolution beside a max-pool, half the width each.

        x ─┬─ 1x1 ─ 3x3, stride 2 ───┬─ concat
           └─ max-pool 2x2 ─ 1x1 ────┘

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, even.
        reduced: channels in front of the 3x3 convolution; None takes those of the input.
        form: norm and activation.
    """

    def __init__(
        self, in_channels: int, out_channels: int, reduced: int | None = None, *, form: BlockForm
    ):
        super().__init__()
        half = out_channels // 2
        reduced = reduced or in_channels
        self.reduce = ConvNormAct(in_channels, reduced, 1, form=form)
        self.down = ConvNormAct(reduced, half, 3, 2, form=form)
        self.pooled = ConvNormAct(in_channels, half, 1, form=form)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [self.down(self.reduce(x)), self.pooled(F.max_pool2d(x, kernel_size=2))], dim=1
        )


class MP(CSPDownsample):
    """YOLOv7's: half the width of the output in front of the 3x3 convolution too."""

    def __init__(self, in_channels: int, out_channels: int, *, form: BlockForm):
        super().__init__(in_channels, out_channels, reduced=out_channels // 2, form=form)


# Called with channels of input and output, and the form by keyword.
DOWNSAMPLES: Registry[Callable[..., nn.Module]] = Registry("downsample", "MODEL.YOLOR.DOWNSAMPLE")
DOWNSAMPLES.add("csp", CSPDownsample)
DOWNSAMPLES.add("mp", MP)


@DOWNSAMPLES.register("conv")
def strided_conv(in_channels: int, out_channels: int, *, form: BlockForm) -> nn.Module:
    """A 3x3 convolution at stride 2."""
    return ConvNormAct(in_channels, out_channels, 3, 2, form=form)


@DOWNSAMPLES.register("max_pool")
def max_pool(in_channels: int, out_channels: int, *, form: BlockForm) -> nn.Module:
    """A 2x2 max-pool, which keeps the width (YOLOv7-tiny)."""
    if in_channels != out_channels:
        raise ValueError(
            f"downsample 'max_pool' keeps its width, {in_channels} channels, but {out_channels} "
            "are wanted (MODEL.YOLOR.DOWNSAMPLE_WIDTH or NECK_DOWNSAMPLE_WIDTH 'same' wants no "
            "others)"
        )
    return nn.MaxPool2d(2)


def build_downsample(
    kind: str, in_channels: int, out_channels: int, *, form: BlockForm
) -> nn.Module:
    """What halves the resolution between stages and on the bottom-up path of the neck.

    Args:
        kind: "conv" for a 3x3 convolution at stride 2, "csp" for `CSPDownsample`, "mp" for `MP`,
            "max_pool", or another name of `DOWNSAMPLES`.
        in_channels: channels of the input.
        out_channels: channels of the output.
        form: norm and activation.

    Raises:
        ValueError: when the kind is unknown.
    """
    return DOWNSAMPLES.lookup(kind)(in_channels, out_channels, form=form)
