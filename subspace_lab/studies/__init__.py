"""Studies: what varies, what is measured and what is claimed; a package each, none imports another.

``import subspace_lab.studies`` is cheap.
"""

from __future__ import annotations

from subspace_lab._late import late

__getattr__ = late(__name__, {"finetuning": "", "grass_paper": "", "optimizers": "", "plans": "", "safety": ""})
