"""The literal algorithm of every paper, one function each, in float64 NumPy: the truth of the fast optimizers' tests.

Nothing here is shared with the optimizers: plain SVDs, explicit residuals, geodesics by the matrix exponential. Each
function takes a matrix and the list of its gradients and returns the list of matrices after every step. What an
algorithm draws at random is an argument, ``draw(refresh)``, a standard normal matrix (m, r); refresh 0 is the first
basis. What an SVD leaves open, the signs of its vectors, is the argument ``like``, bases whose signs to take.

Legend: W parameter and G gradient (m, n), ``m <= n`` (the functions transpose and transpose back as needed); r rank;
``S (m, r)`` basis; ``A = S^T G (r, n)``; M, V moments and O Adam's direction (r, n); t steps from 1; T interval.
"""

from subspace_lab.optim.reference.adamw import adamw
from subspace_lab.optim.reference.apollo import apollo
from subspace_lab.optim.reference.badam import badam
from subspace_lab.optim.reference.cells import subspace_adam
from subspace_lab.optim.reference.fira import fira
from subspace_lab.optim.reference.frugal import frugal
from subspace_lab.optim.reference.galore import galore, golore
from subspace_lab.optim.reference.grass import grassjump, grasswalk
from subspace_lab.optim.reference.ldadam import ldadam
from subspace_lab.optim.reference.online import online_subspace_descent
from subspace_lab.optim.reference.rso import rso
from subspace_lab.optim.reference.subtrack import subtrack

__all__ = [
    "adamw",
    "apollo",
    "badam",
    "fira",
    "frugal",
    "galore",
    "golore",
    "grassjump",
    "grasswalk",
    "ldadam",
    "online_subspace_descent",
    "rso",
    "subspace_adam",
    "subtrack",
]
