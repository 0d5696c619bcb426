"""Evaluators."""

from . import RUNTIME

if RUNTIME == "detectron2":
    from detectron2.evaluation import (
        COCOEvaluator,
        DatasetEvaluator,
        DatasetEvaluators,
        verify_results,
    )
else:
    from .._builtin.evaluation import (
        COCOEvaluator,
        DatasetEvaluator,
        DatasetEvaluators,
        verify_results,
    )

__all__ = ["COCOEvaluator", "DatasetEvaluator", "DatasetEvaluators", "verify_results"]
