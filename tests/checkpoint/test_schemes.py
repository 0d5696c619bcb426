"""The authors' names of tensors, against what their implementation gives for each network."""

import zlib

import pytest
import torch

from yolor_d2.checkpoint.conversion.cfg_scheme import cfg_names
from yolor_d2.checkpoint.conversion.names import rename_keys
from yolor_d2.checkpoint.conversion.parts import parts_of
from yolor_d2.checkpoint.conversion.yaml_scheme import yaml_names
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
    ("yolov7_tiny", "yaml", 342, 3912011518),
    ("yolov7", "yaml", 564, 722129801),
    ("yolov7_x", "yaml", 642, 1156095390),
    ("yolov7_w6", "yaml", 666, 1143435804),
    ("yolov7_e6", "yaml", 894, 3646004391),
    ("yolov7_d6", "yaml", 1026, 2250315977),
    ("yolov7_e6e", "yaml", 1488, 2785279434),
    ("yolov7_tiny_deploy", "yaml", 336, 3395383370),
    ("yolov7_deploy", "yaml", 558, 3864069882),
    ("yolov7_x_deploy", "yaml", 636, 3655220031),
    ("yolov7_w6_deploy", "yaml", 626, 937640981),
    ("yolov7_e6_deploy", "yaml", 854, 519515503),
    ("yolov7_d6_deploy", "yaml", 986, 1741995864),
    ("yolov7_e6e_deploy", "yaml", 1448, 3198843872),
    ("yolov5_s", "yaml", 360, 3589954489),
    ("yolov5_m", "yaml", 504, 4011862482),
    ("yolov5_l", "yaml", 648, 3543794959),
    ("yolov5_x", "yaml", 792, 2036350748),
    ("yolov5_s6", "yaml", 470, 3468168517),
    ("yolov5_m6", "yaml", 650, 659314605),
    ("yolov5_l6", "yaml", 830, 1419778924),
    ("yolov5_x6", "yaml", 1010, 525249270),
]


@pytest.mark.heavy
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


def test_a_few_names_of_yolov7_by_hand():
    """Layer numbers as the yaml files of YOLOv7 have them; each convolution has its own."""
    names = yaml_names(*build_parts("yolov7"))
    assert names["backbone.stages.0.1.skip.conv"] == "model.4.conv"
    assert names["backbone.stages.1.0.pooled.norm"] == "model.13.bn"  # 12 is the pool
    assert names["neck.spp.merge.output.conv"] == "model.51.cv7.conv"
    assert names["neck.output.0.dense.0"] == "model.102.rbr_dense.0"
    names = yaml_names(*build_parts("yolov7_e6e"))
    # The auxiliary head takes the second of two parallel blocks, whose sum is layer 187.
    assert names["neck.top_down.0.second.output.conv"] == "model.186.conv"
    assert names["neck.auxiliary.0.conv"] == "model.261.conv"
    assert names["head.auxiliary.3"] == "model.265.m2.3"


def test_the_head_moves_with_the_auxiliary_convolutions_of_the_file():
    trained, deployed = (yaml_names(*build_parts(f"yolov7_w6{x}")) for x in ("", "_deploy"))
    given = ["model.118.m.0.bias"]
    names = yaml_names(*build_parts("yolov7_w6"), given)
    assert names["head.predict.0"] == deployed["head.predict.0"] == "model.118.m.0"
    given = ["model.122.m.0.bias"]
    names = yaml_names(*build_parts("yolov7_w6_deploy"), given)
    assert names["head.predict.0"] == trained["head.predict.0"] == "model.122.m.0"
    other = yaml_names(*build_parts("yolov7_w6"), ["model.77.m.0.bias"])  # another network
    assert other["head.predict.0"] == "model.122.m.0"


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
