"""Capture: which parameters, when, and what of a gradient is kept."""

from subspace_lab.capture.capture import GradientCapture
from subspace_lab.capture.layers import Layer, select_layers
from subspace_lab.capture.reductions import reduction_bytes, snapshot_bytes

__all__ = ["GradientCapture", "Layer", "reduction_bytes", "select_layers", "snapshot_bytes"]
