"""Evaluators of image classes and of embeddings, on a few images written out by hand."""

import logging

import numpy as np
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.d2.structures import Boxes, BoxMode, Instances
from yolor_d2.datasets.ground_truth import GroundTruth
from yolor_d2.evaluation.classification import ClassificationEvaluator
from yolor_d2.evaluation.embedding import (
    EmbeddingEvaluator,
    match_objects,
    retrieval_metrics,
)


def item(image_id, *annotations):
    return {"file_name": "x", "image_id": image_id, "height": 100, "width": 100} | {
        "annotations": [
            {"bbox": [0, 0, 10, 10], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0} | a
            for a in annotations
        ]
    }


def truth(*items):
    return GroundTruth.from_items(items)


def inputs(*ids):
    return [{"image_id": i} for i in ids]


# ---- Image classes


def scores(*rows):
    return [{"image_scores": torch.tensor(row)} for row in rows]


def test_class_figures_by_hand():
    one, two = {"category_id": 0}, {"category_id": 1}
    evaluator = ClassificationEvaluator(
        [item(1, one, one), item(2), item(3, one, two)], ["cat", "dog", "cow"]
    )
    evaluator.process(inputs(1, 2), scores([0.9, 0.2, 0.1], [0.5, 0.1, 0.1]))
    evaluator.process(inputs(3), scores([0.1, 0.1, 0.1]))
    figures = evaluator.evaluate()["classification"]
    assert figures["AP-cat"] == pytest.approx(100 * (1 + 2 / 3) / 2)  # places 1 and 3
    assert figures["AP-dog"] == pytest.approx(100 / 3)  # last, with another one
    assert np.isnan(figures["AP-cow"])  # in no image: not part of the mean
    assert figures["mAP"] == pytest.approx((500 / 6 + 100 / 3) / 2)
    # Orders of three: two relevant ones have 1, 5/6 and 7/12; one has 1, 1/2 and 1/3.
    chance = ((1 + 5 / 6 + 7 / 12) / 3 + (1 + 1 / 2 + 1 / 3) / 3) / 2
    assert figures["chance_mAP"] == pytest.approx(100 * chance)


def test_an_image_with_a_crowd_alone_does_not_count_for_its_class():
    crowd = {"category_id": 0, "iscrowd": 1}
    evaluator = ClassificationEvaluator([item(1, crowd), item(2, {}), item(3, crowd, {})], ["cat"])
    # The crowd comes first, which would halve the precision of the next.
    evaluator.process(inputs(1, 2, 3), scores([0.9], [0.8], [0.7]))
    assert evaluator.evaluate()["classification"]["mAP"] == 100


def test_nothing_to_evaluate():
    assert ClassificationEvaluator([item(1)], ["cat"]).evaluate() == {}
    assert EmbeddingEvaluator(truth(item(1, {"instance_id": 0}))).evaluate() == {}


def test_reset_forgets():
    evaluator = ClassificationEvaluator([item(1, {})], ["cat"])
    evaluator.process(inputs(1), scores([0.9]))
    evaluator.reset()
    assert evaluator.evaluate() == {}


def slow_mean_ap(truth, values):
    """Independent: a list of pairs, sorted, precision at each hit."""
    aps = []
    for label in range(truth.shape[1]):
        ranked = sorted(zip(values[:, label], truth[:, label]), reverse=True)
        hits, precisions = 0, []
        for place, (_, is_present) in enumerate(ranked, 1):
            hits += is_present
            if is_present:
                precisions.append(hits / place)
        if precisions:
            aps.append(sum(precisions) / len(precisions))
    return 100 * sum(aps) / len(aps)


@pytest.mark.parametrize("seed", range(3))
def test_class_figures_equal_a_slow_computation(seed):
    rng = np.random.default_rng(seed)
    truth, values = rng.random((20, 5)) < 0.3, rng.random((20, 5))  # no equal scores
    items = [
        item(i, *({"category_id": int(k)} for k in np.flatnonzero(row)))
        for i, row in enumerate(truth)
    ]
    evaluator = ClassificationEvaluator(items, list("abcde"))
    evaluator.process(inputs(*range(20)), scores(*values.tolist()))
    figures = evaluator.evaluate()["classification"]
    assert figures["mAP"] == pytest.approx(slow_mean_ap(truth, values), rel=1e-5)


# ---- Embeddings


def detections(*rows):
    """(x of a 10 x 10 box, score, vector) each."""
    return Instances(
        (100, 100),
        pred_boxes=Boxes(torch.tensor([[x, 0.0, x + 10.0, 10.0] for x, _, _ in rows])),
        scores=torch.tensor([s for _, s, _ in rows]),
        pred_classes=torch.zeros(len(rows), dtype=torch.int64),
        pred_embeddings=torch.tensor([v for _, _, v in rows]),
    )


def test_the_best_detection_takes_the_object_that_it_overlaps_most():
    objects = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [60, 0, 70, 10]])
    found = detections(
        (2, 0.5, [1.0]),  # 0.67 and 0.82: the second is taken, so the first
        (3, 0.9, [1.0]),  # the second object
        (40, 0.8, [1.0]),  # nothing
        (0, 0.1, [1.0]),  # the first is taken
    )
    assert match_objects(found, objects) == ([1, 0], [1, 0])
    assert match_objects(found[:0], objects) == ([], [])
    assert match_objects(found, objects[:0]) == ([], [])


def test_retrieval_by_hand():
    # Four objects in three images; 0 and 2 are one individual, 1 and 3 are other ones.
    vectors = np.array([[1, 0], [0, 1], [0.8, 0.6], [0.6, -0.8]], dtype=np.float32)
    identities, labels = np.array([4, 5, 4, 6]), np.array([0, 1, 0, 0])
    figures = retrieval_metrics(vectors, identities, labels, np.array([0, 0, 1, 2]))
    # Query 0 sees 2 (0.8, right) before 3 (0.6). Query 2 sees 0 (0.8, right), 1 (0.6), 3 (0).
    assert (figures["rank1"], figures["mAP"]) == (100, 100)
    assert figures["chance_rank1"] == pytest.approx(100 * (1 / 2 + 1 / 3) / 2)
    assert figures["class_rank1"] == pytest.approx(100 * (1 / 2 + 1 / 2) / 2)
    assert figures["chance_mAP"] == pytest.approx(
        100 * ((1 + 1 / 2) / 2 + (1 + 1 / 2 + 1 / 3) / 3) / 2
    )
    # One pair of the same at 0.8 against 0.6, 0.6, 0 and -0.8.
    assert (figures["AUC"], figures["TPR@FAR0.1"]) == (100, 100)


def test_objects_of_the_same_image_are_no_answer():
    vectors = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    figures = retrieval_metrics(vectors, np.array([1, 1, 2]), np.zeros(3), np.array([0, 0, 1]))
    assert np.isnan(figures["rank1"])  # no other image has the individual


def test_embeddings_that_all_are_equal_are_worth_chance():
    rng = np.random.default_rng(0)
    identities = rng.integers(4, size=60)
    vectors = np.tile(np.array([[0.6, 0.8]], dtype=np.float32), (60, 1))
    figures = retrieval_metrics(vectors, identities, np.zeros(60), np.arange(60))
    assert figures["rank1"] == pytest.approx(figures["chance_rank1"])
    assert figures["AUC"] == pytest.approx(50)


def test_embedding_evaluator_end_to_end():
    known = {"instance_id": 3}
    items = [
        item(1, known, {"bbox": [50, 0, 60, 10], "instance_id": 8}),
        item(2, known, {"bbox": [30, 0, 40, 10]}, {"iscrowd": 1, "instance_id": 9}),
        item(3, {"instance_id": 8, "bbox": [80, 0, 90, 10]}),
    ]
    evaluator = EmbeddingEvaluator(truth(*items))
    outputs = [
        detections((0, 0.9, [1.0, 0.0]), (50, 0.8, [0.0, 1.0])),
        detections((0, 0.9, [0.0, 1.0]), (30, 0.9, [1.0, 0.0])),  # the wrong one; no identity
        detections((0, 0.9, [0.0, 1.0])),  # not the object
    ]
    evaluator.process(inputs(1, 2, 3), [{"instances": x} for x in outputs])
    figures = evaluator.evaluate()["embedding"]
    assert figures["found"] == 75  # three of four objects with an identity
    # Objects found: 3 and 8 in image 1, 3 in image 2. The only queries are those of individual 3:
    # from image 1 the gallery holds one object, right; from image 2 the wrong one comes first.
    assert figures["rank1"] == 50
    assert figures["mAP"] == pytest.approx(100 * (1 + 1 / 2) / 2)


def test_data_without_identities_are_named(caplog):
    with caplog.at_level(logging.WARNING):
        evaluator = EmbeddingEvaluator(truth(item(1, {})))
    assert "instance_id" in caplog.text
    evaluator.process(inputs(1), [{"instances": detections((0, 0.9, [1.0]))}])
    assert evaluator.evaluate() == {}
