"""The dataset doctor: what is wrong with a data set, before training finds out."""

from .doctor import Report, check_sources
from .findings import KINDS, Finding
from .source import AnnotationFileError, Source

__all__ = ["KINDS", "AnnotationFileError", "Finding", "Report", "Source", "check_sources"]
