"""The figures of a study, by file name, in the order of the report."""

from __future__ import annotations

from subspace_lab.figures.style import Picture
from subspace_lab.studies.safety.figures.attack_success import attack_success
from subspace_lab.studies.safety.figures.conflict import conflict
from subspace_lab.studies.safety.figures.gradient_overlaps import gradient_overlaps
from subspace_lab.studies.safety.figures.keywords import keywords
from subspace_lab.studies.safety.figures.overlaps import overlaps
from subspace_lab.studies.safety.figures.pareto import pareto
from subspace_lab.studies.safety.figures.safety_energy import safety_energy

FIGURES: dict[str, Picture] = {
    "attack_success": attack_success,
    "pareto": pareto,
    "keywords": keywords,
    "conflict": conflict,
    "safety_energy": safety_energy,
    "overlaps": overlaps,
    "gradient_overlaps": gradient_overlaps,
}
