"""Durations, sizes and values, for people to read."""


def format_seconds(seconds: float) -> str:
    """A duration to read: `0.84 s`, `12.3 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 0:
        return "-" + format_seconds(-seconds)
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def format_bytes(n: float) -> str:
    """A size to read, in powers of 1000: `512 B`, `8.00 GB`."""
    if n < 1000:
        return f"{int(n)} B"
    for unit in ("kB", "MB", "GB"):
        n /= 1000
        if n < 999.5:
            return f"{n:.3g} {unit}" if n >= 100 else f"{n:.2f} {unit}" if n < 10 else f"{n:.1f} {unit}"
    return f"{n / 1000:.2f} TB"


def shortened(value: object) -> str:
    """The text of a value, cut at 60 characters, dots included."""
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
