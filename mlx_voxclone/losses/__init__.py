"""Losses: one file each, pure functions of arrays, no files and no state."""

from mlx_voxclone.losses.adversarial import adversarial_losses, feature_matching_loss, hinge_discriminator_loss
from mlx_voxclone.losses.codes import acoustic_code_loss, acoustic_level_cross_entropy, semantic_code_loss
from mlx_voxclone.losses.commitment import commitment_loss
from mlx_voxclone.losses.distillation import distillation_loss
from mlx_voxclone.losses.flow_matching import flow_matching_loss, flow_matching_targets
from mlx_voxclone.losses.mel import log_mel_loss
from mlx_voxclone.losses.semantic import semantic_cross_entropy
from mlx_voxclone.losses.stft import multi_resolution_stft_loss
from mlx_voxclone.losses.usage import level_usage_loss, usage_loss
from mlx_voxclone.losses.waveform import waveform_l1

__all__ = [
    "acoustic_code_loss",
    "acoustic_level_cross_entropy",
    "adversarial_losses",
    "commitment_loss",
    "distillation_loss",
    "feature_matching_loss",
    "flow_matching_loss",
    "flow_matching_targets",
    "hinge_discriminator_loss",
    "level_usage_loss",
    "log_mel_loss",
    "multi_resolution_stft_loss",
    "semantic_code_loss",
    "semantic_cross_entropy",
    "usage_loss",
    "waveform_l1",
]
