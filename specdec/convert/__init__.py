"""Importing models into the converted format."""

from specdec.convert.conversion import Progress, convert
from specdec.convert.report import ClassLoss, ConversionReport

__all__ = ["ClassLoss", "ConversionReport", "Progress", "convert"]
