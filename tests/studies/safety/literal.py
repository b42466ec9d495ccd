"""The defenses written out entry by entry in double precision, by numpy alone, to compare the shipped ones with."""

import math

import numpy as np


def norm(*arrays):
    return math.sqrt(sum(float(x) ** 2 for array in arrays for x in np.asarray(array).ravel()))


def inner(one, other):
    return sum(
        float(a) * float(b) for x, y in zip(one, other, strict=True) for a, b in zip(x.ravel(), y.ravel(), strict=True)
    )


def frobenius_map(V):
    m, n = V.shape
    return np.array([[sum(V[i, l] * V[j, l] for l in range(n)) for j in range(m)] for i in range(m)]) / norm(V)


def topk_map(V, k):
    """By the eigenvectors of V V^T, not by a singular value decomposition."""
    values, vectors = np.linalg.eigh(V @ V.T)
    first = vectors[:, np.argsort(-values)[:k]]
    return first @ first.T


def safelora(D, C, tau):
    projected = C @ D
    cosine = float((projected * D).sum()) / (norm(projected) * norm(D))
    return projected if cosine <= tau else D


def asft_penalty(D, C):
    rest = (np.eye(len(C)) - C) @ D
    return sum(float(x) ** 2 for x in rest.ravel())


def lox(V, k, c):
    """``U_k S_k V_k^T`` is V projected on its first left directions."""
    return c * topk_map(V, k) @ V


def spf(G_user, G_safety, k):
    return G_user if inner([G_user], [G_safety]) >= 0 else G_user - topk_map(G_safety, k) @ G_user


def antidote(W, norms, share):
    made = W.copy()
    for i, row in enumerate(W):
        for _ in range(int(share * len(row))):
            left = [j for j in range(len(row)) if made[i, j] != 0]
            made[i, max(left, key=lambda j: abs(row[j]) * norms[j])] = 0
    return made


def safedelta(aligned, tuned, H, s, damping):
    """The prefix by a loop over sorted entries; what makes up by solving with the columns that are left."""
    n = len(H)
    H = H + damping * np.mean(np.diag(H)) * np.eye(n)
    cost = [1 / np.linalg.inv(H[j:, j:])[0, 0] for j in range(n)]  # 1 / L_jj^2 of the upper factor of the inverse
    D, m = tuned - aligned, len(aligned)
    entries = sorted(((i, j) for i in range(m) for j in range(n)), key=lambda at: cost[at[1]])
    kept, spent = set(), 0.0
    for i, j in entries:
        spent += D[i, j] ** 2 * cost[j]
        if spent >= s * np.mean(cost):
            break
        kept.add((i, j))
    made = aligned.copy()
    for i in range(m):
        for j in range(n):
            if (i, j) in kept:
                moved = tuned[i, j] - made[i, j]
                made[i, j] = tuned[i, j]
                if j + 1 < n:  # the best move of the columns behind j, those before it as they are
                    made[i, j + 1 :] -= np.linalg.solve(H[j + 1 :, j + 1 :], H[j + 1 :, j]) * moved
    return np.array([[tuned[i, j] if (i, j) in kept else made[i, j] for j in range(n)] for i in range(m)])


def mmd(X, Y):
    rows = [*X, *Y]
    pairs = [norm(a - b) ** 2 for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    b = np.mean(pairs) / 4

    def mean(P, Q):
        return np.mean([sum(math.exp(-(norm(p - q) ** 2) / (b * 2**j)) for j in range(5)) for p in P for q in Q])

    return mean(X, X) + mean(Y, Y) - 2 * mean(X, Y)


def constrained_weights(difference, beta):
    return np.array([max(2 / (1 + math.exp(b * d)), 1e-3) for d, b in zip(difference, beta, strict=True)])


def surgery(g_u, g_s, rho):
    product = inner(g_u, g_s)
    factor = product / norm(*g_s) ** 2 if product < 0 else 0.0
    return [u - factor * s + rho * s for u, s in zip(g_u, g_s, strict=True)]


def perturbations(gradients, rho):
    return [rho * g / norm(*gradients) for g in gradients]
