"""What a configuration takes from the hub, as files of this machine."""

from mlx_voxclone.files.hub import ADAPTERS, ENCODER, is_address, local
from mlx_voxclone.settings.config import RunConfig

_KINDS = {("encoder", "weights"): ENCODER, ("speaker", "encoder"): ENCODER, ("speaker", "start"): ADAPTERS}


def fetched(config: RunConfig) -> RunConfig:
    """The configuration with paths in place of the addresses that its task uses; what is written down keeps these.

    Raises:
        CheckpointError: something that is not to be had from the hub.
    """
    sections = {}
    for (section, key), kind in _KINDS.items():
        place = getattr(getattr(config, section), key)
        if section in config.stages and is_address(place):
            now = sections.get(section, getattr(config, section))
            sections[section] = now.model_copy(update={key: local(place, kind)})
    return config.model_copy(update=sections)
