"""Learning rates that hold when the batch changes."""

from __future__ import annotations

import logging

import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.config import load_config, read_config
from yolor_d2.engine.lengths import get_key
from yolor_d2.engine.muon import Muon
from yolor_d2.engine.rates import POWERS, scale_rates
