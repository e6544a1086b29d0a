"""Numbers of bytes, for people."""


def size_text(count: float) -> str:
    """Return a number of bytes in the unit that suits it.

    >>> size_text(0), size_text(2048), size_text(3 * 2**30)
    ('0 B', '2.0 K', '3.0 G')
    """
    for unit in ("B", "K", "M", "G"):
        if count < 1000 or unit == "G":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
