"""Convolutions that training splits into branches (RepVGG, arXiv 2101.03697)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from .conv import BlockForm


class RepConv(nn.Module):
    """act(norm(3x3(x)) + norm(1x1(x)) [+ norm(x)]); `layers.fuse` makes one convolution of it.

    YOLOv7 plans where such a convolution may stand (arXiv 2207.02696, section 4.1): where its
    output meets other maps by a sum or concatenation, an identity branch would undo their variety,
    so its networks have none.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: 1 or 2.
        identity: the third branch; needs equal channels and stride 1.
        form: norm and activation.

    Raises:
        ValueError: when there can be no identity branch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        identity: bool = False,
        form: BlockForm,
    ):
        super().__init__()
        if identity and (in_channels != out_channels or stride != 1):
            raise ValueError(
                f"RepConv with an identity branch has {in_channels} channels of input, "
                f"{out_channels} of output and stride {stride}; expected equal channels, stride 1"
            )

        def branch(kernel_size: int) -> nn.Sequential:
            conv = nn.Conv2d(
                in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False
            )
            return nn.Sequential(conv, form.norm(out_channels))

        self.dense = branch(3)
        self.pointwise = branch(1)
        self.identity = form.norm(out_channels) if identity else None
        self.act = form.act()

    def branches(self) -> Iterator[tuple[nn.Conv2d | None, nn.BatchNorm2d]]:
        """Convolution, if any, and norm of each branch."""
        for conv, norm in (self.dense, self.pointwise):
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            yield conv, norm
        if self.identity is not None:
            yield None, self.identity

    def forward(self, x: Tensor) -> Tensor:
        y = self.dense(x) + self.pointwise(x)
        return self.act(y if self.identity is None else y + self.identity(x))
