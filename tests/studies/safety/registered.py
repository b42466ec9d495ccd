"""Plug-ins are registered in a process for good; tests forget them."""

from __future__ import annotations

import sys

from subspace_lab.experiments.plugins import is_shipped
from subspace_lab.studies.safety.kinds import JUDGES, POLICIES, TASKS, THREATS
from subspace_lab.studies.safety.stages import DEFENSES


def forget_plugins():
    for registry in (DEFENSES, JUDGES, POLICIES, TASKS, THREATS):
        for name, cls in [*registry.items()]:
            if not is_shipped(cls.__module__):
                del registry._classes[name]
                registry._names.pop(cls, None)
                sys.modules.pop(cls.__module__, None)
