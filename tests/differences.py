"""How far maps are from those that are expected."""


def error(y, expected):
    """Root mean square of the difference, over that of what is expected, on whatever devices and in whatever dtypes."""
    assert y.shape == expected.shape
    y, expected = y.cpu().double(), expected.cpu().double()
    return float((y - expected).square().mean().sqrt() / expected.square().mean().sqrt())
