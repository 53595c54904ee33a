"""What a studio has: its folder, its tasks, its models."""

from pathlib import Path

from mlx_voxclone.studio.home import Home
from mlx_voxclone.studio.models import Models
from mlx_voxclone.studio.tasks import Tasks
from mlx_voxclone.studio.train.trainings import Trainings


class Studio:
    """Everything that a studio has; `server.Served` puts it on a port.

    Attributes:
        home: its folder. tasks: long actions. models: those that are loaded. trainings: processes of their own.
        bound_wide: whether other machines can reach it (a microphone then needs https).
    """

    def __init__(self, folder: str | Path, *, bound_wide: bool = False) -> None:
        self.home, self.bound_wide = Home(folder), bound_wide
        self.tasks, self.models, self.trainings = Tasks(self.home), Models(), Trainings(self.home)
