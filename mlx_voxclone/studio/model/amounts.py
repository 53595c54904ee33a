"""Times and sizes for people, in the page's language."""

from mlx_voxclone.studio.web.languages import Words


def about(seconds: float, t: Words) -> str:
    """A duration that is not known to the second: `40 s`, `12 min`, `2 h 10 min`."""
    if seconds < 60:
        return t("model.about.seconds", count=max(1, round(seconds)) if seconds > 0 else 0)
    minutes = round(seconds / 60)
    if minutes < 90:
        return t("model.about.minutes", count=minutes)
    hours, minutes = divmod(round(minutes / 10) * 10, 60)
    return (
        t("model.about.hours", hours=hours, minutes=minutes) if minutes else t("model.about.whole_hours", count=hours)
    )


def gigabytes(size: float, t: Words) -> str:
    """A size in GB, with a digit behind the point below 10; a smaller one in MB."""
    number = size / 1e9
    if number < 1:
        return t("model.about.mb", count=round(size / 1e6))
    return t("model.about.gb", count=decimal(number, 0 if number >= 10 else 1, t))


def typed(number: float, t: Words) -> str:
    """A number as a person types it into a field."""
    return f"{number:g}".replace(".", t("common.point"))


def decimal(number: float, digits: int, t: Words) -> str:
    """A number with so many digits behind the point."""
    return f"{number:.{digits}f}".replace(".", t("common.point")).replace("-", "\N{MINUS SIGN}")
