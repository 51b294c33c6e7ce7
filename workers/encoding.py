"""Images to embeddings: one image is encoded once for each version of the encoder, whoever asks.

What the encoder said is kept by a key that names the pixels, so that a crash, a second analysis of
the same study or a new generation costs a look-up. Requests overlap with the preparation of the
next images. Pure over its ports.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from models.embedding import EncoderManifest
from models.results import ModelIdentity
from workers.errors import BadModelOutput, EncoderMismatch
from workers.ports import Checkpoint, Embeddings, InferenceClient, ServedModel

MODEL = "encoder"
BATCH = 32
"""Images in one request."""
_IN_FLIGHT = 2  # one computes while the next one is on its way

LoadImages = Callable[[Sequence[int]], NDArray[np.uint8]]
"""Numbers of images -> (B, S, S, 3) uint8 RGB, prepared for the encoder."""


def content_key(prepared: NDArray[np.uint8]) -> str:
    """Key of one prepared (S, S, 3) uint8 image: the SHA-256 of its pixels."""
    return hashlib.sha256(np.ascontiguousarray(prepared).tobytes()).hexdigest()


class Encoder:
    """The served encoder with its memory."""

    def __init__(self, models: InferenceClient, embeddings: Embeddings) -> None:
        self._models = models
        self._embeddings = embeddings
        self._served: ServedModel[EncoderManifest] | None = None

    @property
    def served(self) -> ServedModel[EncoderManifest]:
        """What is in service; asked once, so that one analysis speaks of one encoder.

        Raises
        ------
        ModelUnavailable, BadModelOutput
            From the model server.
        """
        if self._served is None:
            self._served = self._models.identify(MODEL, EncoderManifest)
        return self._served

    @property
    def identity(self) -> ModelIdentity:
        """What reports say of the encoder."""
        return self.served.manifest.identity()

    def require(self, digest: str) -> None:
        """Refuse to feed a head that was trained on another encoder's embeddings.

        Raises
        ------
        EncoderMismatch
            The encoder in service has other weights.
        """
        if self.served.digest != digest:
            raise EncoderMismatch(
                "the encoder in service is not the one that this model was trained with "
                f"({self.served.digest[:8]} and {digest[:8]}): export the model again or promote "
                "the other encoder"
            )

    def encode(
        self, keys: Sequence[str], load: LoadImages, checkpoint: Checkpoint
    ) -> NDArray[np.float32]:
        """Return the embeddings of N images; only those that are not known are loaded.

        Parameters
        ----------
        keys
            N keys, each naming the pixels of one image (``content_key``, or anything that stands
            for them, such as a file's digest and a place in it).
        load
            Called with the numbers of at most ``BATCH`` images, in ascending order.
        checkpoint
            Called before each request.

        Returns
        -------
        (N, E) float32.

        Raises
        ------
        BadModelOutput
            The encoder's answer contradicts its manifest.
        ModelUnavailable
            From the model server. What it had answered by then is kept.
        """
        found = np.empty((len(keys), self.served.manifest.dim), np.float32)
        known = self._embeddings.get(self.served.digest, keys)
        missing: dict[str, list[int]] = {}
        for number, key in enumerate(keys):
            if key in known:
                found[number] = known[key]
            else:
                missing.setdefault(key, []).append(number)
        firsts = [numbers[0] for numbers in missing.values()]
        with ThreadPoolExecutor(_IN_FLIGHT) as pool:
            running: deque[tuple[list[int], Future[NDArray[np.float32]]]] = deque()
            try:
                for start in range(0, len(firsts), BATCH):
                    checkpoint()
                    numbers = firsts[start : start + BATCH]
                    running.append((numbers, pool.submit(self._infer, load(numbers))))
                    if len(running) > _IN_FLIGHT:
                        self._keep(*running.popleft(), keys, found)
                while running:
                    self._keep(*running.popleft(), keys, found)
            finally:
                for _, future in running:
                    future.cancel()
        for numbers in missing.values():
            found[numbers[1:]] = found[numbers[0]]
        return found

    def _infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        outputs = self._models.infer(MODEL, {"IMAGE": images})
        embedding = outputs.get("EMBEDDING")
        expected = (len(images), self.served.manifest.dim)
        if embedding is None or embedding.shape != expected:
            shape = None if embedding is None else embedding.shape
            raise BadModelOutput(f"the encoder sent embeddings of shape {shape}, not {expected}")
        return np.asarray(embedding, np.float32)

    def _keep(
        self,
        numbers: list[int],
        future: Future[NDArray[np.float32]],
        keys: Sequence[str],
        found: NDArray[np.float32],
    ) -> None:
        answer = future.result()
        found[numbers] = answer
        self._embeddings.put(
            self.served.digest,
            {keys[n]: row for n, row in zip(numbers, answer, strict=True)},
        )
