"""Evaluators."""

from . import RUNTIME

if RUNTIME == "detectron2":
    from detectron2.evaluation import COCOEvaluator as StockCOCOEvaluator
    from detectron2.evaluation import (
        DatasetEvaluator,
        DatasetEvaluators,
        inference_on_dataset,
        print_csv_format,
        verify_results,
    )
else:
    from .._builtin.evaluation import (
        DatasetEvaluator,
        DatasetEvaluators,
        inference_on_dataset,
        print_csv_format,
        verify_results,
    )

    # Detectron2's own, which benchmarks compare with ours; there is none here.
    StockCOCOEvaluator = None

__all__ = [
    "DatasetEvaluator",
    "DatasetEvaluators",
    "StockCOCOEvaluator",
    "inference_on_dataset",
    "print_csv_format",
    "verify_results",
]
