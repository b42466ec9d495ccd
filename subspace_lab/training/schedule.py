"""The learning rate of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from subspace_lab.training.config import TrainConfig


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up to the peak, then a cosine down to a share of it.

    Attributes:
        peak: Largest learning rate, reached in step ``warmup`` (in the first step without warm-up).
        floor: Learning rate after the last step.
        warmup: Steps of warm-up.
        steps: All steps, warm-up included.
    """

    peak: float
    floor: float
    warmup: int
    steps: int

    @classmethod
    def of(cls, config: TrainConfig, *, peak: float | None = None) -> Self:
        """The schedule of a resolved configuration.

        Args:
            config: The configuration.
            peak: Largest learning rate; by default the configuration's.

        Returns:
            The schedule.
        """
        peak = config.lr if peak is None else peak
        assert peak is not None
        assert config.warmup is not None
        assert config.steps is not None
        return cls(peak, peak * config.min_lr_ratio, config.warmup, config.steps)

    def at(self, step: int) -> float:
        """The learning rate of a step.

        Args:
            step: Steps taken before.

        Returns:
            The rate; in warm-up ``peak (step + 1) / (warmup + 1)``, so that the first step already learns.

        >>> Cosine(peak=1.0, floor=0.1, warmup=1, steps=3).at(1)
        1.0
        """
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / (self.steps - self.warmup)
        return self.floor + (self.peak - self.floor) * (1 + math.cos(math.pi * progress)) / 2
