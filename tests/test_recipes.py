"""Recipes: their values, and that a list of bases joins one with a model."""

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2 import model_zoo
from yolor_d2.config import load_config

# Size, translate, scale, mosaics of nine, mixup, class gain, objectness gain, epochs.
RECIPES = {
    "scratch_640": (640, 0.1, 0.9, 0.0, 0.0, 0.3, 0.7, 300),
    "scratch_640_s": (640, 0.1, 0.5, 0.0, 0.0, 0.5, 1.0, 300),
    "scratch_1280": (1280, 0.5, 0.5, 0.0, 0.0, 0.5, 1.0, 300),
    "finetune_1280": (1280, 0.5, 0.8, 1.0, 0.2, 0.5, 1.0, 450),
    "finetune_1280_last": (1280, 0.5, 0.8, 0.0, 0.2, 0.5, 1.0, 450),
    "scheme_300": (1280, 0.5, 0.5, 0.0, 0.0, 0.5, 1.0, 300),
}


def load(name):
    return load_config(name, ["MODEL.DEVICE", "cpu"])


def values(cfg) -> tuple:
    augment, loss = cfg.INPUT.AUGMENT, cfg.MODEL.YOLOR.LOSS
    epochs = cfg.SOLVER.MAX_ITER * 64 / 118_287  # images of COCO
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST) == (
        (cfg.INPUT.MAX_SIZE_TRAIN,),
        cfg.INPUT.MAX_SIZE_TEST,
    )
    return (
        cfg.INPUT.MAX_SIZE_TRAIN,
        augment.TRANSLATE,
        augment.SCALE,
        augment.MOSAIC9,
        augment.MIXUP,
        loss.CLASSES,
        loss.OBJECTNESS,
        round(epochs, 2),
    )


def test_every_recipe_is_known():
    names = {name for name in model_zoo.list_configs() if name.startswith("recipes/")}
    assert names == {f"recipes/{name}.yaml" for name in RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_values_of_the_authors(name):
    cfg = load(f"recipes/{name}.yaml")
    assert values(cfg) == RECIPES[name]
    # Equal in all of them.
    augment = cfg.INPUT.AUGMENT
    assert (augment.MOSAIC, augment.HSV) == (1.0, [0.015, 0.7, 0.4])
    assert (augment.FLIP, augment.FLIP_VERTICAL) == (0.5, 0.0)
    assert (augment.DEGREES, augment.SHEAR, augment.PERSPECTIVE) == (0.0, 0.0, 0.0)
    assert (cfg.INPUT.RECT, cfg.INPUT.MULTI_SCALE) == (False, 0.0)


@pytest.mark.parametrize("name", RECIPES)
def test_a_model_and_a_recipe_make_a_config(name, tmp_path):
    path = tmp_path / "mine.yaml"
    root = model_zoo.config_root()
    bases = f'["{root}/yolor_p6_paper.yaml", "{root}/recipes/{name}.yaml"]'
    path.write_text(f"_BASE_: {bases}\nSOLVER:\n  IMS_PER_BATCH: 32\n")
    cfg = load(path)
    assert cfg.MODEL.YOLOR.VARIANT == "yolor_p6_paper"
    assert values(cfg) == RECIPES[name]
    assert cfg.SOLVER.IMS_PER_BATCH == 32  # the file's own line
