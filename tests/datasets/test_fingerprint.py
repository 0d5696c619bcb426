"""What a run was trained on, and what is logged when it resumes with something else."""

import json
import logging
import shutil

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.data.options import use_data
from yolor_d2.datasets.catalog import register_datasets
from yolor_d2.engine import Trainer


@pytest.fixture
def data(toy, tmp_path):
    """A copy of the annotations and images, to be changed."""
    shutil.copytree(toy.train_images, tmp_path / "images")
    shutil.copy(toy.train_json, tmp_path / "train.json")
    return tmp_path


def trained(cfg, data, name: str, *, resume: bool):
    """A trainer on the changed copy, which has loaded what there is."""
    cfg = cfg.clone()
    cfg.DATASETS.TEST = ()
    path = data / f"{name}.json"  # a name of its own, as catalogues remember
    shutil.copy(data / "train.json", path)
    use_data(cfg, (str(path), str(data / "images")), None)
    register_datasets(cfg)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    for hook in trainer._hooks:  # it will not train, which would close its files
        for writer in getattr(hook, "_writers", []):
            writer.close()
    return trainer


def changes(cfg, data, caplog, edit) -> str:
    """What is logged when a run resumes after an edit of the annotations."""
    trainer = trained(cfg, data, "before", resume=False)
    trainer.checkpointer.save("model_0000000", iteration=0)
    content = json.loads((data / "train.json").read_text())
    edit(content)
    (data / "train.json").write_text(json.dumps(content))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        trained(cfg, data, "after", resume=True)
    return "\n".join(x.getMessage() for x in caplog.records if "not those" in x.getMessage())


def test_the_same_data_in_another_place_are_the_same(cfg, data, caplog):
    assert changes(cfg, data, caplog, lambda content: None) == ""


@pytest.mark.heavy
def test_other_annotations_are_named(cfg, data, caplog):
    def edit(content):
        (changed, *_) = (x for x in content["annotations"] if not x["iscrowd"])
        changed["bbox"][2] -= 3

    text = changes(cfg, data, caplog, edit)
    assert "1 image is with other annotations ('" in text


@pytest.mark.heavy
@pytest.mark.parametrize("paste_in", [0.0, 0.5])
def test_other_polygons_are_named_where_they_matter(cfg, data, caplog, paste_in):
    cfg.INPUT.AUGMENT.PASTE_IN = paste_in

    def edit(content):
        (changed, *_) = (x for x in content["annotations"] if not x["iscrowd"])
        changed["segmentation"][0][0] += 1

    text = changes(cfg, data, caplog, edit)
    assert ("1 image is with other polygons ('" in text) == (paste_in > 0)
    assert "other annotations" not in text


@pytest.mark.heavy
def test_images_that_are_gone_are_counted(cfg, data, caplog):
    def edit(content):
        gone = content["images"].pop()["id"]
        content["annotations"] = [x for x in content["annotations"] if x["image_id"] != gone]

    assert "1 of 24 images are gone" in changes(cfg, data, caplog, edit)


@pytest.mark.heavy
def test_files_of_another_size_are_named(cfg, data, caplog):
    def edit(content):
        path = data / "images" / content["images"][0]["file_name"]
        path.write_bytes(path.read_bytes() + b"\0")

    assert "1 image is of another file size" in changes(cfg, data, caplog, edit)
