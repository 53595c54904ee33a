"""The look that the report, the evaluation's page and the studio share: style sheet, player of sounds."""

from mlx_voxclone.report.look.sounds import ENGLISH, peaks, player
from mlx_voxclone.report.look.texts import FOLDER, icon, script, style

__all__ = ["ENGLISH", "FOLDER", "icon", "peaks", "player", "script", "style"]
