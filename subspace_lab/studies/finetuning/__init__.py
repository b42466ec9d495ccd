"""Fine-tuning of a pretrained model by several optimizers and by adapters, and the gradients of its many blocks.

The claims are those of SubTrack-Grad (arXiv 2502.01586) about GLUE and SuperGLUE, and W1 to W4 of arXiv 2510.01878 in a
deep pretrained model. Importing this package is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subspace_lab._late import late

if TYPE_CHECKING:
    from subspace_lab.studies.finetuning.profiles import PROFILES, Profile
    from subspace_lab.studies.finetuning.study import fine_tune

__all__ = ["PROFILES", "Profile", "fine_tune"]

__getattr__ = late(__name__, {"PROFILES": "profiles", "Profile": "profiles", "fine_tune": "study"})
