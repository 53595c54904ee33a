"""The look that the report, the evaluation's page and the studio share: style sheet, player of sounds."""

from mlx_voxclone.report.look.sounds import ENGLISH, peaks, player
from mlx_voxclone.report.look.texts import icon, script, style

__all__ = ["ENGLISH", "icon", "peaks", "player", "script", "style"]
