"""The model files of the serving code (vLLM-Omni), imported from its wheel without vllm.

Run by an interpreter that has torch, transformers, mistral-common and the vllm-omni wheel. Placeholders stand for the
rest of vllm, so that the files are what they are on a server.
"""

import importlib
import importlib.util
import logging
import sys
import types
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path

import torch
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

MODELS = "vllm_omni.model_executor.models.voxtral_tts"
STAGES, GENERATION_MODEL, TOKENIZER_MODEL = (
    f"{MODELS}.{file}" for file in ("voxtral_tts", "voxtral_tts_audio_generation", "voxtral_tts_audio_tokenizer")
)
PARSER = "vllm_omni.transformers_utils.parsers.voxtral_tts"
REAL = (
    *(STAGES, GENERATION_MODEL, TOKENIZER_MODEL, PARSER),
    "vllm_omni.transformers_utils.configs.voxtral_tts",
    "vllm_omni.model_executor.custom_process_mixin",
)


class LanguageModel(torch.nn.Module):
    """In the place of vllm's Mistral: takes whatever weights would be its."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
        return [name for name, _ in weights]


def registered_model(*, vllm_config, hf_config, prefix: str, architectures: tuple[str, ...] = ()) -> torch.nn.Module:
    """Build what a stage asks vllm for by name; without a name, the language model."""
    if not architectures:
        return LanguageModel()
    if architectures[0] == "VoxtralTTSAudioTokenizer":
        build = sys.modules[TOKENIZER_MODEL].VoxtralTTSAudioTokenizer
    else:
        build = sys.modules[GENERATION_MODEL].VoxtralTTSAudioGenerationForConditionalGeneration
    return build(vllm_config=vllm_config, prefix=prefix)


def load_tensor(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
    if parameter.shape != tensor.shape:
        raise ValueError(f"{list(tensor.shape)} instead of {list(parameter.shape)}")
    parameter.data.copy_(tensor)


def tokenizer_of(model_config) -> types.SimpleNamespace:
    tokenizer = MistralTokenizer.from_file(str(Path(model_config.model) / "tekken.json"))
    return types.SimpleNamespace(instruct=tokenizer.instruct_tokenizer)


# What of vllm the model files use when they are imported, built and loaded; any other name is an empty class.
STANDS_FOR = {
    "MULTIMODAL_REGISTRY": types.SimpleNamespace(register_processor=lambda *_, **__: lambda cls: cls),
    "_CONFIG_FORMAT_TO_CONFIG_PARSER": {},
    "_remap_general_mistral_args": lambda params: params | {"hidden_size": params["dim"]},
    "cached_tokenizer_from_config": tokenizer_of,
    "current_omni_platform": types.SimpleNamespace(device_type="cpu"),
    "default_weight_loader": load_tensor,
    "init_logger": logging.getLogger,
    "init_vllm_registered_model": registered_model,
    "maybe_prefix": lambda prefix, name: f"{prefix}.{name}" if prefix else name,
}


class Placeholder(types.ModuleType):
    """A module that has whatever is imported from it."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        empty = {"__class_getitem__": classmethod(lambda cls, _: cls)}
        return STANDS_FOR[name] if name in STANDS_FOR else type(name, (), empty)


class Finder:
    """Finds the model files in the wheel and a placeholder for every other module of vllm and vllm-omni."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("vllm_omni")
        if spec is None:
            raise SystemExit("vllm-omni is not installed here")
        self.wheel = Path(spec.submodule_search_locations[0]).parent

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name in REAL:
            return importlib.util.spec_from_file_location(
                name, self.wheel.joinpath(*name.split(".")).with_suffix(".py")
            )
        ours = name.partition(".")[0] in ("vllm", "vllm_omni")
        return ModuleSpec(name, self, is_package=True) if ours else None

    def create_module(self, spec: ModuleSpec) -> Placeholder:
        return Placeholder(spec.name)

    def exec_module(self, module: Placeholder) -> None:
        pass


def import_modules() -> None:
    """Afterwards `sys.modules` has every name in REAL. Raises SystemExit without the wheel."""
    sys.meta_path.insert(0, Finder())
    for name in REAL:
        importlib.import_module(name)
