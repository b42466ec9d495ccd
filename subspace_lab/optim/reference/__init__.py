"""The literal algorithm of every paper, a file each, in float64 NumPy: the truth of the fast optimizers' tests.

Nothing here is shared with the optimizers: plain SVDs, explicit residuals, geodesics by the matrix exponential. Each
function takes a matrix and the list of its gradients and returns the list of matrices after every step. What an
algorithm draws at random is an argument, ``draw(refresh)``, a standard normal matrix (m, r); refresh 0 is the first
basis. What an SVD leaves open, the signs of its vectors, is the argument ``like``, bases whose signs to take.

Legend: W parameter and G gradient (m, n), ``m <= n`` (the functions transpose and transpose back as needed); r rank;
``S (m, r)`` basis; ``A = S^T G (r, n)``; M, V moments and O Adam's direction (r, n); t steps from 1; T interval.
"""
