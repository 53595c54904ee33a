"""Text to the ids of a speech prompt, by mistral-common's own tokenizer (`tekken.json`)."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.files.plain import read_json, reason_of
from mlx_voxclone.files.yaml_files import shown

if TYPE_CHECKING:
    from mlx_voxclone.checkpoint.release import Release

BEGIN, AUDIO, BEGIN_AUDIO = "<s>", "[AUDIO]", "[BEGIN_AUDIO]"
MOST_TOKENS = 1_000_000
NEXT_TEXT, REPEAT_TEXT = "[NEXT_AUDIO_TEXT]", "[REPEAT_AUDIO_TEXT]"
_FRAMING = 5  # tokens of a prompt beside the text and the voice


class SpeechTokenizer:
    """The tokenizer of a checkpoint.

    Args:
        path: `tekken.json`.
        vocab_size: rows of the model's text embedding; None: what `tekken.json` says.
        context: positions that the model has room for; None: no prompt is too long.

    Raises:
        CheckpointError: unreadable, a speech token missing, or ids beyond `vocab_size`.
    """

    def __init__(self, path: str | Path, vocab_size: int | None = None, context: int | None = None):
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer  # 1 s to import

        self.path, self.context = Path(path), context
        if not self.path.is_file():
            raise CheckpointError(f"{self.path}: not found; a Voxtral directory holds tekken.json")
        self._check_sizes()
        try:
            self._tekken = Tekkenizer.from_file(self.path)
            self._special = {
                name: self._tekken.get_special_token(name)
                for name in (BEGIN, AUDIO, BEGIN_AUDIO, NEXT_TEXT, REPEAT_TEXT)
            }
        except Exception as e:  # it fails in a dozen ways (AssertionError, KeyError, ValueError, ...) on a bad file
            reason = str(e).splitlines()[0][:120] if str(e) else type(e).__name__
            raise CheckpointError(f"{self.path}: not a tokenizer of a speech model ({reason})") from e
        self.vocab_size = self._tekken.n_words
        if vocab_size is not None and self.vocab_size > vocab_size:
            raise CheckpointError(f"{self.path}: {self.vocab_size} ids, but the model embeds only {vocab_size}")

    def _check_sizes(self) -> None:
        """Refuse numbers of tokens that the library would take minutes and gigabytes to make."""
        try:
            content = read_json(self.path)
            sizes = [content["config"][name] for name in ("default_vocab_size", "default_num_special_tokens")]
        except (OSError, ValueError) as e:
            reason = f"not readable as JSON: {reason_of(e)}"
            raise CheckpointError(f"{self.path}: not a tokenizer of a speech model ({reason})") from None
        except (KeyError, TypeError):
            raise CheckpointError(f"{self.path}: not a tokenizer of a speech model (config without sizes)") from None
        if any(type(size) is not int or not 0 < size <= MOST_TOKENS for size in sizes):
            raise CheckpointError(
                f"{self.path}: not a tokenizer of a speech model (default_vocab_size and default_num_special_tokens are"
                f" {shown(sizes)}; up to {MOST_TOKENS} are possible)"
            )

    @classmethod
    def of(cls, release: "Release") -> "SpeechTokenizer":
        """That of a checkpoint, whose prompts fit into the model."""
        backbone = release.config.backbone
        return cls(release.tokenizer_path, backbone.vocab_size, backbone.max_seq_len)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, nothing added; text that looks like a special token is only text.

        Raises:
            DataError: nothing to say in it.
        """
        if not text.strip():
            raise DataError("the text is empty; give some words to speak")
        return self._tekken.encode(text, bos=False, eos=False)

    def prompt(self, text: str, n_voice_rows: int, frames: int = 0) -> list[int]:
        """The speech prompt: `<s> [BEGIN_AUDIO] [AUDIO] x N [NEXT_AUDIO_TEXT] text [REPEAT_AUDIO_TEXT] [BEGIN_AUDIO]`.

        Args:
            text: what to say.
            n_voice_rows: N, the voice's rows with the END row: for reference audio ceil(samples / 1920) + 1.
                (mistral-common counts that in floats and is one too many at some exact lengths.)
            frames: of speech that may follow, which the model must have room for, too.

        Raises:
            DataError: nothing to say in the text; more tokens than the model's context has room for.
        """
        if n_voice_rows < 1:
            raise ValueError(f"a voice has at least one row, got {n_voice_rows}")
        if self.context is not None and len(text) > self.context:  # a text of 100 MB takes minutes to be counted
            self._check_fits(
                -(-len(text.encode("utf-8", "replace")) // self._longest), n_voice_rows, frames, "at least "
            )
        ids = self.encode(text)
        self._check_fits(len(ids), n_voice_rows, frames)
        s = self._special
        voice = [s[BEGIN], s[BEGIN_AUDIO], *[s[AUDIO]] * n_voice_rows]
        return [*voice, s[NEXT_TEXT], *ids, s[REPEAT_TEXT], s[BEGIN_AUDIO]]

    @cached_property
    def _longest(self) -> int:
        """Bytes of the longest token."""
        return max(
            len(self._tekken.id_to_byte_piece(i)) for i in range(self._tekken.num_special_tokens, self.vocab_size)
        )

    def _check_fits(self, tokens: int, rows: int, frames: int, about: str = "") -> None:
        if self.context is None:
            return
        possible = self.context - rows - frames - _FRAMING
        if possible < 1:
            raise DataError(
                f"a voice of {rows} rows and up to {frames} frames of speech exceed the context of {self.context},"
                " without any text; take a shorter voice, or fewer seconds of speech"
            )
        if tokens > possible:
            raise DataError(
                f"the text is too long: it has {about}{tokens} tokens, at most {possible} fit: with a voice of {rows}"
                f" rows and up to {frames} frames of speech more exceed the context of {self.context}; split the text"
            )
