"""The authors' names of tensors, against what their implementation gives for each network."""

import zlib

import pytest
import torch

from yolor_d2.checkpoint.convert import parts_of
from yolor_d2.checkpoint.schemes import cfg_names, rename_keys, yaml_names
from yolor_d2.networks import build_network

# Number and CRC-32 of the sorted lines "name shape" of the reference's state dicts, without its
# constants (anchors and wavelet filters). Networks that are recorded whole are tested on values.
REFERENCE = [
    ("yolor_p6_paper", "yaml", 862, 1004021967),
    ("yolor_w6_paper", "yaml", 862, 698390380),
    ("yolor_e6", "yaml", 958, 3182678662),
    ("yolor_d6", "yaml", 1246, 954478028),
    ("yolor_ssss_s2d", "yaml", 381, 697302489),
    ("yolor_ssss_dwt", "yaml", 381, 697302489),
    ("yolor_csp", "cfg", 684, 3317326019),
    ("yolor_csp_x", "cfg", 816, 918420639),
    ("yolor_p6", "cfg", 862, 1621832027),
    ("yolor_w6", "cfg", 862, 2541355879),
    ("yolov4_csp", "cfg", 678, 9876144),
    ("yolov4_csp_x", "cfg", 810, 164358981),
]


@pytest.mark.parametrize(("variant", "scheme", "number", "checksum"), REFERENCE)
def test_names_and_shapes_are_the_reference_s(variant, scheme, number, checksum):
    with torch.device("meta"):
        network = build_network(variant)
    names = parts_of(network).names(scheme)
    lines = sorted(f"{names[k]} {list(v.shape)}" for k, v in network.state_dict().items())
    assert len(set(lines)) == number
    assert zlib.crc32("\n".join(lines).encode()) == checksum


def build_parts(variant, **options):
    with torch.device("meta"):
        network = build_network(variant, **options)
    return network.backbone, network.neck, network.head


def test_a_few_names_by_hand():
    """Layer numbers as the yaml and cfg files of YOLOR-P6 have them."""
    names = yaml_names(*build_parts("yolor_p6_paper"))
    assert names["backbone.stem.1.conv"] == "model.1.conv"  # 0 is space to depth
    assert names["neck.spp.after.0.norm"] == "model.12.cv5.bn"
    assert names["neck.top_down.0.split"] == "model.27.cv2"
    assert names["neck.align.3"] == "model.41.ia.3"
    names = cfg_names(*build_parts("yolor_p6"))
    assert names["neck.align.0"] == "module_list.203"
    assert names["head.refine.3"] == "module_list.210"
    assert names["neck.output.1.conv"] == "module_list.218.Conv2d"
    assert names["head.predict.3"] == "module_list.232.Conv2d"


def test_each_scheme_belongs_to_one_form():
    with pytest.raises(ValueError, match="it is in form Y, the network in form D"):
        yaml_names(*build_parts("yolor_p6"))
    with pytest.raises(ValueError, match="it is in form D, the network in form Y"):
        cfg_names(*build_parts("yolor_p6_paper"))


def test_a_network_without_published_names_is_refused():
    with pytest.raises(ValueError, match="cfg files have no CSPDownsample"):
        cfg_names(*build_parts("yolor_e6", form="D"))
    network = build_parts("yolor_csp_x", form="Y")  # its extra pair was published in form D only
    with pytest.raises(ValueError, match=r"no counterpart of the layer 'neck\.spp\.after\.2"):
        rename_keys(["neck.spp.after.2.conv.weight"], yaml_names(*network))
