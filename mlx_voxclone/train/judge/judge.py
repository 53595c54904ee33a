"""Codes of transcribed recordings, judged by the frozen language model.

A recovered encoder is right about what it measures and wrong about details that the true encoder would settle
otherwise. The language model and its flow head were trained on true codes: they predict which codes follow a text and
the codes before. For a recording with a transcript the encoder is the evidence and the language model the prior.

- Semantic code of frame t: the k with the largest `log p_encoder(k | z_t) + log p_LM(k | voice, text, codes before t)`,
  where `p_encoder(k | z) = softmax_k(-||z - row_k||^2 / temperature)` over the codebook's rows.
- Acoustic values: `tanh(z) = x + noise` with noise of standard deviation s. Scaled by `t = 1 / (1 + s)` that is a
  point of the flow's path from noise (t = 0) to data (t = 1). One step of the head's velocity field to its end
  estimates the mean of the data behind it: `x_1 = t tanh(z) + (1 - t) v(t tanh(z), t, h)` (Tweedie's formula for the
  linear path).

All frames are judged at once behind the present hypothesis, in rounds; it settles within four.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.losses import flow_matching_targets
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.codes import lm_frames
from mlx_voxclone.model.config import N_SPECIAL_CODES
from mlx_voxclone.model.quantizer import levels_to_values, nearest_distance, values_to_levels
from mlx_voxclone.model.voxtral import Voxtral

ROUNDS = 4
TEMPERATURE = 4.0  # of the encoder's softmax, in units of the median squared distance of neighbouring codebook rows
NOISE = 0.35  # standard deviation of the encoder's acoustic error, in units of the flow's own noise at t = 0
FLOW_DRAWS = 4  # points of the path per frame, by which acoustic codes are scored
BATCH_TOKENS = 4096  # positions of a batch: bounds the memory of a forward pass


@dataclass(frozen=True, eq=False)
class Evidence:
    """One transcribed recording as the encoder sees it.

    Attributes:
        latents: float32 `[T, D]`, the encoder's output before quantisation.
        voice: 0-based codes `[37, N]` of other speech of the speaker, the voice prompt.
    """

    id: str
    text: str
    latents: np.ndarray
    voice: np.ndarray


@dataclass(frozen=True, eq=False)
class Judged:
    """Judged codes of one recording.

    Attributes:
        codes: int32 `[37, T]`, 0-based.
        confidence: float32 `[T]`, posterior probability of the chosen semantic code.
        text_nats: mean negative log-likelihood of the semantic codes under the language model (nats per frame).
        raw_nats: that of the encoder's own codes.
    """

    codes: np.ndarray
    confidence: np.ndarray
    text_nats: float
    raw_nats: float


class CodeJudge:
    """Judges codes with a frozen model.

    Args:
        model: stock language model and flow head; its codec may lack an encoder.
        prompt: text and number of voice rows -> token ids (`SpeechTokenizer.prompt`).
        temperature, noise: see the module's constants.
    """

    def __init__(
        self,
        model: Voxtral,
        prompt: Callable[[str, int], list[int]],
        *,
        temperature: float = TEMPERATURE,
        noise: float = NOISE,
    ):
        self.model, self._prompt, self.noise = model, prompt, noise
        codec = model.audio_tokenizer
        self._semantic_dim = codec.config.semantic_dim
        self._codes = codec.config.semantic_codebook_size
        self._levels = codec.config.acoustic_codebook_size
        self.unit = neighbour_distance(codec)
        self.temperature = temperature

    def judge(
        self,
        evidence: Sequence[Evidence],
        *,
        rounds: int = ROUNDS,
        progress: Callable[[int], object] = lambda n: None,
        on_pass: Callable[[], object] = lambda: None,
    ) -> list[Judged]:
        """Judge all recordings; `progress` is called with the number of recordings done, `on_pass` after each of the
        `rounds + 1` passes of a batch through the language model.

        Raises:
            CheckpointError: numbers of the language model or the flow head that are not finite.
        """
        found: dict[int, Judged] = {}
        for batch in self._batches(evidence):
            for k, judged in zip(batch, self._judge_batch([evidence[k] for k in batch], rounds, on_pass)):
                found[k] = judged
            progress(len(batch))
        return [found[k] for k in range(len(evidence))]

    def nats(self, evidence: Sequence[Evidence], codes: Sequence[np.ndarray]) -> np.ndarray:
        """Mean negative log-likelihood of given semantic codes behind each recording's voice and text.

        Args:
            evidence: recordings; their latents are not used.
            codes: int32 `[37, T]` of each.

        Returns:
            float64 `[N]`, nats per frame.
        """
        found = np.zeros(len(evidence))
        for batch in self._batches(evidence):
            prompts = [self._embedded_prompt(evidence[k]) for k in batch]
            prior, _ = self._priors(prompts, [codes[k] for k in batch])
            for k, p in zip(batch, prior):
                found[k] = _nats(p, codes[k])
        return found

    def flow_losses(self, evidence: Sequence[Evidence], codes: Sequence[np.ndarray]) -> np.ndarray:
        """Flow-matching loss of given acoustic codes behind each recording's voice and text: mean squared error of the
        velocity at `FLOW_DRAWS` random points of the path, the same for equal lengths.

        Returns:
            float64 `[N]`.
        """
        head, found = self.model.acoustic_transformer, np.zeros(len(evidence))
        for batch in self._batches(evidence):
            hidden = self._hidden([self._embedded_prompt(evidence[k]) for k in batch], [codes[k] for k in batch])
            for k, states in zip(batch, hidden):
                values = levels_to_values(mx.array(codes[k][1:].T), self._levels)  # [T, 36]
                rng, losses = np.random.default_rng([0, len(values)]), []
                for _ in range(FLOW_DRAWS):
                    noise = mx.array(rng.standard_normal(values.shape).astype(np.float32))
                    time = mx.array(rng.uniform(size=len(values)).astype(np.float32))
                    x_t, velocity = flow_matching_targets(values, noise, time)
                    predicted = head.velocity(x_t, time, states).astype(mx.float32)
                    losses.append(float(mx.mean(mx.square(predicted - velocity))))
                found[k] = np.mean(losses)
        return found

    def _batches(self, evidence: Sequence[Evidence]) -> Iterable[list[int]]:
        lengths = [len(e.latents) + e.voice.shape[1] + len(e.text) for e in evidence]  # close enough to sort by
        return batches(lengths)

    def _judge_batch(self, items: list[Evidence], rounds: int, on_pass: Callable[[], object]) -> list[Judged]:
        semantic = [self.encoder_log_probabilities(e.latents) for e in items]
        acoustic = [np.tanh(e.latents[:, self._semantic_dim :]) for e in items]
        codes = [self._with(s.argmax(axis=1), a) for s, a in zip(semantic, acoustic)]
        prompts = [self._embedded_prompt(e) for e in items]
        prior, hidden = self._priors(prompts, codes)
        on_pass()
        raw_nats = [_nats(p, c) for p, c in zip(prior, codes)]
        for _ in range(rounds):
            values = self._denoised(acoustic, hidden)
            codes = [self._with((s + p).argmax(axis=1), a) for s, p, a in zip(semantic, prior, values)]
            prior, hidden = self._priors(prompts, codes)
            on_pass()
        found = []
        for c, p, s, raw in zip(codes, prior, semantic, raw_nats):
            posterior = s + p
            posterior -= np.logaddexp.reduce(posterior, axis=1, keepdims=True)
            confidence = np.exp(posterior)[np.arange(len(p)), c[0]].astype(np.float32)
            found.append(Judged(c, confidence, _nats(p, c), raw))
        return found

    # --- the encoder's side -----------------------------------------------------------------------------------------

    def encoder_log_probabilities(self, latents: np.ndarray) -> np.ndarray:
        """`[T, D]` -> `[T, K]`: log-softmax of negative squared distances to the codebook's rows."""
        book = self.model.audio_tokenizer.quantizer.semantic_codebook
        z = mx.array(latents[:, : self._semantic_dim])
        distances = np.array(book.distances(z)).astype(np.float64)  # [T, K]
        logits = -distances / (self.temperature * self.unit)
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)

    def _with(self, semantic: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Semantic codes `[T]` and acoustic values `[T, 36]` in [-1, 1] -> codes `[37, T]`."""
        levels = np.round(values_to_levels(np.clip(values, -1, 1), self._levels))
        return np.concatenate([semantic[None], levels.T]).astype(np.int32)

    # --- the language model's side ----------------------------------------------------------------------------------

    def _embedded_prompt(self, evidence: Evidence) -> mx.array:
        rows = self.model.voice_embedding(evidence.voice)
        return self.model.embed_prompt(self._prompt(evidence.text, rows.shape[0]), rows)[0]

    def _hidden(self, prompts: list[mx.array], codes: list[np.ndarray]) -> list[mx.array]:
        """Per item the hidden states `[T, dim]` that predict its frames, given the frames before."""
        sequences = []
        for prompt, c in zip(prompts, codes):
            frames = mx.array(lm_frames(c[:, :-1]))  # the last frame predicts END alone
            sequences.append(mx.concatenate([prompt, self.model.embed_codes(frames).astype(prompt.dtype)], axis=0))
        width = max(s.shape[0] for s in sequences)
        batch = mx.stack([mx.pad(s, [(0, width - s.shape[0]), (0, 0)]) for s in sequences])  # [B, width, dim]
        hidden = self.model.hidden_states(batch)
        return [hidden[k, s.shape[0] - c.shape[1] : s.shape[0]] for k, (s, c) in enumerate(zip(sequences, codes))]

    def _priors(self, prompts: list[mx.array], codes: list[np.ndarray]) -> tuple[list[np.ndarray], list[mx.array]]:
        """Log-probabilities `[T, K]` of the semantic codes per item, and the hidden states behind them."""
        hidden = self._hidden(prompts, codes)
        logits = self.model.acoustic_transformer.masked_semantic_logits(mx.concatenate(hidden))
        speech = logits[:, N_SPECIAL_CODES : N_SPECIAL_CODES + self._codes]  # END is no code of a frame
        prior = np.array(speech - mx.logsumexp(speech, axis=-1, keepdims=True))
        _check_finite(prior, "language model")
        ends = np.cumsum([h.shape[0] for h in hidden])[:-1]
        return np.split(prior, ends), hidden

    def _denoised(self, acoustic: list[np.ndarray], hidden: list[mx.array]) -> list[np.ndarray]:
        """Acoustic values `[T, 36]` per item, one step of the flow nearer to the data."""
        time = 1.0 / (1.0 + self.noise)
        x_t = mx.array(np.concatenate(acoustic).astype(np.float32)) * time
        velocity = self.model.acoustic_transformer.velocity(x_t, mx.full((x_t.shape[0],), time), mx.concatenate(hidden))
        values = np.array(x_t + (1.0 - time) * velocity.astype(mx.float32))
        _check_finite(values, "flow head")
        return np.split(values, np.cumsum([len(a) for a in acoustic])[:-1])


def batches(lengths: Sequence[int]) -> Iterable[list[int]]:
    """Places of recordings of similar length together, at most `BATCH_TOKENS` positions or one recording each."""
    batch: list[int] = []
    for k in sorted(range(len(lengths)), key=lambda k: lengths[k]):
        if batch and (len(batch) + 1) * lengths[k] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(k)
    if batch:
        yield batch


def _check_finite(values: np.ndarray, source: str) -> None:
    """Codes made from such numbers lie outside their codebooks, and looking these up reads foreign memory."""
    if not np.isfinite(values).all():
        raise CheckpointError(f"the {source}'s numbers are not finite: the weights are damaged; get the model again")


def _nats(prior: np.ndarray, codes: np.ndarray) -> float:
    """Mean negative log-probability `[T, K]` of the semantic codes of `[37, T]`."""
    return float(-prior[np.arange(len(prior)), codes[0]].mean())


def neighbour_distance(codec: Codec) -> float:
    """Median squared distance from a codebook row that is in use to the nearest other one."""
    book = codec.quantizer.semantic_codebook
    used = np.flatnonzero(np.array(book.cluster_usage.astype(mx.float32)) > 0)
    return nearest_distance(book.embedding[mx.array(used)] if len(used) > 1 else book.embedding)
