"""Scaling of networks: by width and depth, and YOLOv7's compound scaling."""

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolor_d2.layers import ELAN, FORM_V7
from yolor_d2.networks import VARIANTS, Variant, build_network, get_variant
from yolor_d2.networks.network import customise
from yolor_d2.networks.variant import compound_scale, deeper, scale, scale_width

V7, V7_W6 = VARIANTS["yolov7"], VARIANTS["yolov7_w6"]


def difference(a, b):
    """Fields in which two rows differ."""
    return {f.name for f in fields(Variant) if getattr(a, f.name) != getattr(b, f.name)}


def test_one_changes_nothing():
    for row in (V7, V7_W6, VARIANTS["yolov5_s"]):
        assert compound_scale(row, 1) == row and scale(row) is row


def test_x_is_scaled_from_yolov7():
    """The concatenations of four convolutions are 4 wide, of six 5: everything times 1.25."""
    row = compound_scale(V7, 1.5)
    assert row.stem == (("conv", 40, 3, 1), ("conv", 80, 3, 2), ("conv", 80, 3, 1),
                        ("conv", 160, 3, 2))  # fmt: skip
    assert row.stages == (
        (320, 6, "elan", 64),
        (640, 6, "elan", 128),
        (1280, 6, "elan", 256),
        (1280, 6, "elan", 256),
    )
    assert (row.neck_widths, row.neck_units) == ((160, 320, 640), 6)
    assert row.neck_hidden == V7.neck_hidden == (128, 256, 512)
    # What the authors made otherwise: the neck has the backbone's blocks, and no branches.
    published = VARIANTS["yolov7_x"]
    assert difference(row, published) == {"neck_block", "neck_output"}
    assert (published.neck_block, published.neck_output) == ("elan", "conv")


@pytest.mark.parametrize(
    ("name", "depth", "widths", "auxiliary"),
    [
        # 4 to 6 convolutions: 5 / 4. The auxiliary widths are those of W6.
        ("yolov7_e6", 1.5, (160, 320, 640, 960, 1280), (320, 640, 960, 1280)),
        # 4 to 8: 6 / 4.
        ("yolov7_d6", 2, (192, 384, 768, 1152, 1536), (384, 768, 1152, 1536)),
    ],
)
def test_e6_and_d6_are_scaled_from_w6(name, depth, widths, auxiliary):
    row = compound_scale(V7_W6, depth)
    assert [stage[0] for stage in row.stages] == list(widths)
    assert row.neck_widths == tuple(width // 2 for width in widths[1:])
    assert [stage[1] for stage in row.stages] == [4 * depth] * 5
    assert [stage[3] for stage in row.stages] == [64, 128, 256, 384, 512]  # as in W6
    # What the authors made otherwise.
    published = VARIANTS[name]
    assert difference(row, published) == {"stem", "downsample", "auxiliary_widths"}
    assert published.downsample == "csp"
    wide = widths[0]
    assert published.stem == (("s2d",), ("conv", wide // 2, 3, 1), ("csp", wide))
    assert published.auxiliary_widths == auxiliary


def test_e6e_doubles_the_blocks_of_e6():
    e6, e6e = VARIANTS["yolov7_e6"], VARIANTS["yolov7_e6e"]
    assert difference(e6, e6e) == {"stages", "neck_block"}
    assert [("e_" + kind, w, n, h) for w, n, kind, h in e6.stages] == [
        (kind, w, n, h) for w, n, kind, h in e6e.stages
    ]
    assert e6e.neck_block == f"e_{e6.neck_block}"


def concatenations(network):
    """Width of the concatenation, of the output and inside, of every block."""
    blocks = [m for m in network.modules() if isinstance(m, ELAN)]
    return [
        (m.output.conv.in_channels, m.output.conv.out_channels, m.entry.conv.out_channels)
        for m in blocks
    ]


@pytest.mark.heavy
@given(
    kind=st.sampled_from(["elan", "elan_t"]),
    units=st.integers(1, 6),
    depth=st.sampled_from([1, 1.25, 1.5, 2, 3]),
    hidden=st.sampled_from([8, 24, 40]),
    widths=st.lists(st.sampled_from([16, 32, 48]), min_size=2, max_size=3),
    extended=st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_what_follows_a_concatenation_grows_with_it(kind, units, depth, hidden, widths, extended):
    """All ones of a network by the same factor, rounded up to eights; the width inside stays."""
    block = f"e_{kind}" if extended else kind
    row = Variant(
        form=FORM_V7,
        stem=(("conv", 16, 3, 2), ("conv", 32, 3, 2)),
        stages=((24, units, block, hidden), *((w, units, block, hidden) for w in widths)),
        transition=False,
        spp=("sppcspc",),
        neck_widths=widths,
        neck_units=units,
        neck_block=block,
        neck_hidden=[hidden] * len(widths),
        auxiliary_widths=widths,
        anchors=[[(10, 10)]] * len(widths),
    )
    scaled = compound_scale(row, depth)
    with torch.device("meta"):
        before, after = (concatenations(build_network(x, 1)) for x in (row, scaled))
    (factor,) = {new[0] / old[0] for old, new in zip(before, after, strict=True)}
    assert [new[1] for new in after] == [scale_width(old[1], factor) for old in before]
    assert [new[2] for new in after] == [old[2] for old in before] == [hidden] * len(before)
    assert scaled.neck_units == deeper(units, depth)
    assert [layer[1] for layer in scaled.stem] == [scale_width(c, factor) for c in (16, 32)]
    for wider, widths in (
        (scaled.neck_widths, row.neck_widths),
        (scaled.auxiliary_widths, row.auxiliary_widths),
    ):
        assert list(wider) == [scale_width(width, factor) for width in widths]


@pytest.mark.parametrize("name", ["yolor_csp", "yolor_p6", "yolov5_l6"])
def test_networks_without_growing_concatenations_grow_in_depth_alone(name):
    row = get_variant(name)
    assert compound_scale(row, 2) == scale(row, depth=2)


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": (*V7.stages[:3], (1024, 4))},  # a CSP block among ELANs
        {"stages": (*V7.stages[:3], (1024, 6, "elan", 256))},  # 6 to 9 convolutions: 7 / 5
        {"neck_block": "csp_neck", "neck_hidden": ()},
        {"neck_block": "elan_t", "neck_units": 3},  # 3 to 4 convolutions: 6 / 5
    ],
)
def test_blocks_that_grow_differently_are_refused(changes):
    with pytest.raises(ValueError, match=r"scaling by 1\.5 .*COMPOUND_DEPTH.*factors, \[1\.\d"):
        compound_scale(replace(V7, **changes), 1.5)


def test_one_line_scales_a_network_of_ones_own():
    """After the fields of the user's, so that it is their network that grows."""
    row = customise("yolov7", compound_depth=1.5, neck_block="elan", neck_output="conv")
    assert row == VARIANTS["yolov7_x"]
    stages = ((64, 4, "elan", 16),) * 4
    row = customise("yolov7", compound_depth=2, stages=stages)
    assert row.stages == ((96, 8, "elan", 16),) * 4
    with pytest.raises(ValueError, match=r"MODEL\.YOLOR\.COMPOUND_DEPTH"):
        customise("yolov7", compound_depth=2, stages=(*stages[:3], (64, 4)))


def test_the_width_factor_scales_widths_inside_blocks():
    row = scale(V7_W6, width=0.25)
    assert row.stages[0] == (32, 4, "elan", 16) and row.stages[4] == (256, 4, "elan", 128)
    assert row.neck_hidden == (32, 64, 96, 128)
    assert row.auxiliary_widths == (80, 160, 240, 320)
    assert row.neck_widths == (32, 64, 96, 128)
    # Without a width inside there is none to scale; 512 * 0.3 = 153.6.
    assert scale(VARIANTS["yolov7_tiny"], width=0.3).stages[3] == (160, 2, "elan_t")


def test_the_width_factor_leaves_sizes_of_windows():
    row = scale(VARIANTS["yolov5_l6"], width=0.25, depth=0.33)
    assert row.stages[-1] == (256, 1, "spp_c3", 3, 5, 7)
    assert row.stem == (("focus", 16), ("conv", 32, 3, 2))
    # The published sizes: 9 repetitions become 3 of S, 6 of M, 12 of X.
    repetitions = {name: VARIANTS[f"yolov5_{name}"].stages[1][1] for name in "smlx"}
    assert repetitions == {"s": 3, "m": 6, "l": 9, "x": 12}
    assert [VARIANTS[f"yolov5_{name}"].neck_units for name in "smlx"] == [1, 2, 3, 4]
