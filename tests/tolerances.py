"""The allowed errors of computed numbers, and their reasons. Other tolerances have their reason beside them.

All processors round alike, but they add in different orders. With 128, 256 or 512 bits at a time, the partial sums
differ, and some processors join a multiplication with an addition. A test must pass on all of them
(`make test-portable`). So a tolerance is larger than the rounding error, with a margin, and much smaller than the
effect of a fault. One rounding has a relative error of 1.1e-16 in float64 and of 6e-8 in float32. The error of a sum of
n numbers is at most n such parts of its largest partial sum.

If a test names no tolerance, those of pytest.approx and torch apply: 1e-6 and more, for results of few operations.
"""

ROUNDING = 1e-12  # float64: a thousand operations on numbers of similar size, 1e3 * 1.1e-16, with a margin of ten
SMALL = 1e-15  # the same for numbers of at most 1e-3, such as the products of two gradients
NETWORK = 1e-9  # float64, through a network: sums of 1e4 terms in which two or three digits cancel
SOLVED = 1e-7  # float64: a minimum, or a root near 0, is exact only to the square root of a rounding error (1e-8)
SINGLE = 1e-6  # float32: a dozen operations, 12 * 6e-8
SINGLE_SUM = 1e-5  # float32: a hundred operations, or a sum of a hundred numbers
