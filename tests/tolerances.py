"""How far a computed number may be from the right one, and why. Other tolerances have their reason beside them.

All processors round alike, but they add in different orders: with 128, 256 or 512 bits at a time, the partial sums
differ, and some processors join a multiplication with an addition. A test must pass on all (`make test-portable`). So a
tolerance is larger than the error of rounding, with a margin, and much smaller than the effect of a fault. One rounding
changes a number by 1.1e-16 of it in float64 and by 6e-8 in float32. A sum of n numbers is wrong by at most n such parts
of its largest partial sum.

If a test names no tolerance, those of pytest.approx and torch apply: 1e-6 and more, for numbers of few operations.
"""

ROUNDING = 1e-12  # float64: a thousand operations on numbers of like size, 1e3 * 1.1e-16, ten times over
SMALL = 1e-15  # the same for numbers of 1e-3 and less, such as the products of two gradients
NETWORK = 1e-9  # float64, through a network: sums of 1e4 terms in which two or three digits cancel
SOLVED = 1e-7  # float64: the square root of a rounding (1e-8), which is what a minimum or a root near 0 is known to
SINGLE = 1e-6  # float32: a dozen operations, 12 * 6e-8
SINGLE_SUM = 1e-5  # float32: a hundred operations, or a sum of a hundred numbers
