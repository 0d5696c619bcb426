"""Evaluators."""

from . import RUNTIME

if RUNTIME == "detectron2":
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

__all__ = [
    "DatasetEvaluator",
    "DatasetEvaluators",
    "inference_on_dataset",
    "print_csv_format",
    "verify_results",
]
