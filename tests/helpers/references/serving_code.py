"""What the released serving code (vLLM-Omni) makes of a checkpoint, on the CPU: run by an interpreter that has it.

PYTHON tests/helpers/references/serving_code.py CHECKPOINT INPUT.npz OUTPUT.npz

PYTHON has torch, transformers, mistral-common, safetensors and the vllm-omni wheel; vllm itself is not needed. The
model files are imported from the wheel as they are, among placeholders for the rest of vllm, and their own classes read
the checkpoint. What they refuse ends the script.

INPUT holds `waveform` float32 [samples], `codes` int [37, T] (0-based), `hidden` float32 [N, dim]. OUTPUT holds:

language_model, audio_tokenizer, acoustic_transformer  names that each part loaded
voices, rows_of_NAME  the voices that the server offers, and their rows
codes, codes_bfloat16  [37, T], 0-based: of the waveform, in float32, and in BF16 as it is served
rows, rows_bfloat16  [T + 1, dim]: what the waveform becomes in the prompt, in both ways
audio  [samples]: of `codes` of the input, float32
noise, head_codes  [N, 36], [N, 37] with +2: of `hidden`, float32
"""

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parents[3] / "mlx_voxclone" / "bench" / "peers"))
from serving_modules import PARSER, STAGES, import_modules

PARTS = ("language_model", "audio_tokenizer", "acoustic_transformer")
CODEBOOK = ("cluster_usage", "embedding_sum")  # loaded, and no parameters
CFG_ALPHA = 1.2


# --- a checkpoint in it -----------------------------------------------------------------------------------------------


def served(directory: Path, stage: str, dtype: torch.dtype) -> tuple[torch.nn.Module, set[str]]:
    """A stage of the server in one dtype (BF16: as it is served) with its weights, and the names that it loaded.

    Raises:
        KeyError: a tensor that the serving code does not know. SystemExit: one that it leaves out or would miss.
    """
    params = json.loads((directory / "params.json").read_text(encoding="utf-8"))
    _, hf_config = sys.modules[PARSER]._parse_voxtral_tts(params)
    config = types.SimpleNamespace(hf_config=hf_config, model=str(directory), model_stage=stage, enforce_eager=True)
    vllm_config = types.SimpleNamespace(model_config=config, quant_config=None)
    torch.set_default_dtype(dtype)  # as vllm does while it builds a model
    model = sys.modules[STAGES].VoxtralTTSForConditionalGeneration(vllm_config=vllm_config)
    torch.set_default_dtype(torch.float32)
    loaded = set(model.load_weights(tensors(directory, None if dtype == torch.bfloat16 else dtype)))
    parameters = {name for name, _ in model.named_parameters()}
    if missing := sorted(parameters - loaded):  # what vllm checks after loading
        raise SystemExit(f"not initialized from the checkpoint: {', '.join(missing)}")
    other = [name for name in loaded - parameters if ".language_model." not in name and not name.endswith(CODEBOOK)]
    if other:  # the flow head warns of them and goes on
        raise SystemExit(f"not used by the serving code: {', '.join(sorted(other))}")
    return model.eval(), loaded


def tensors(directory: Path, dtype: torch.dtype | None) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors in the order of the file; dtype None: as they are stored."""
    with safe_open(str(directory / "consolidated.safetensors"), "pt") as file:
        for name in file.keys():  # noqa: SIM118
            yield name, file.get_tensor(name) if dtype is None else file.get_tensor(name).to(dtype)


def with_end(codes: torch.Tensor) -> torch.Tensor:
    """0-based codes `[1, 37, T]` to the LM's `[1, 37, T + 1]`, END last."""
    end = torch.zeros_like(codes[:, :, :1])
    end[:, 0] = 1
    return torch.cat([codes + 2, end], dim=-1)


@torch.inference_mode()
def main(checkpoint: str, inputs: str, output: str) -> None:
    torch.set_num_threads(1)
    import_modules()
    directory, given = Path(checkpoint), np.load(inputs)
    if not served(directory, "audio_tokenizer", torch.bfloat16)[0].encoder_loaded():
        raise SystemExit("no ref_audio: the server regards the encoder as absent")

    stage, loaded = served(directory, "audio_generation", torch.float32)
    tokenizer, head = stage.audio_generation.audio_tokenizer, stage.audio_generation.acoustic_transformer
    waveform = torch.from_numpy(given["waveform"])
    whole = torch.nn.functional.pad(waveform, (0, -len(waveform) % tokenizer.patch_size))
    codes = tokenizer.quantizer.encode(tokenizer._forward_encoder(whole[None, None]))
    hidden = torch.from_numpy(given["hidden"])
    torch.manual_seed(0)
    noise = torch.randn(hidden.shape[0], head.model_args.n_acoustic_codebook)
    torch.manual_seed(0)  # the head draws the same
    results = {
        "codes": codes[0],
        "rows": tokenizer.encode_tokens([with_end(codes)])[0],
        "audio": tokenizer.decode(torch.from_numpy(given["codes"])[None].long())[0, 0],
        "noise": noise,
        "head_codes": head(llm_hidden=hidden, cfg_alpha=torch.full(hidden.shape[:1], CFG_ALPHA)),
        "voices": list(stage.voice_to_embedding),
    }
    results |= {f"rows_of_{name}": rows.float() for name, rows in stage.voice_to_embedding.items()}
    for part in PARTS:
        prefix = f"audio_generation.{part}."
        results[part] = sorted(name.removeprefix(prefix) for name in loaded if name.startswith(prefix))

    stage, _ = served(directory, "audio_generation", torch.bfloat16)
    tokenizer = stage.audio_generation.audio_tokenizer
    results["codes_bfloat16"] = tokenizer._tokenize_audio(waveform[None, None])[0]  # under autocast
    results["rows_bfloat16"] = tokenizer.encode_waveforms([waveform])[0].float()
    np.savez(output, **{name: np.asarray(value) for name, value in results.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
