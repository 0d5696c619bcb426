"""Evaluators."""

from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, verify_results

__all__ = ["COCOEvaluator", "DatasetEvaluator", "verify_results"]
