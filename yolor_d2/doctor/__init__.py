"""The dataset doctor: what is wrong with a data set, before training finds out."""

from ..datasets.findings import KINDS, Finding
from ..datasets.source import AnnotationFileError, Source
from .run import Report, check_sources

__all__ = ["KINDS", "AnnotationFileError", "Finding", "Report", "Source", "check_sources"]
