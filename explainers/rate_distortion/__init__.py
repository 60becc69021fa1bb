"""Rate-distortion explanations: which values suffice, when all others are noise.

A mask ``s`` in [0, 1], shaped as the input, obfuscates a sample ``x`` by noise ``n``: ``y = s x +
(1 - s) n``. Its distortion is ``D(s) = 1/2 E[(t - f(y))^2]``, where ``t = f(x)`` is what is
explained, and its rate the mean of ``s`` (Macdonald et al. 2019, arXiv:1905.11092). `noise` says
what values are replaced by, `distortion` what solvers ask for, `assumed` finds it by assumed
density filtering and `sampled` by draws, `verifying` by fresh draws; `solvers` look for the masks.
"""
