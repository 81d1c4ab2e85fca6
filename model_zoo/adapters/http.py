"""Detectors behind an HTTP API: nothing is known of them but their answers."""

from __future__ import annotations

import base64
import email.utils
import json
import os
import random
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np

from composition.detections import Detections
from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters import service as services
from model_zoo.adapters.base import Image, InferenceSettings, UnansweredError
from model_zoo.adapters.decoders.base import Candidates
from model_zoo.adapters.postprocessing import finish, to_table
from model_zoo.adapters.preprocessing import Placement, check_image
from model_zoo.adapters.service import IMAGE, IMAGES, Service
from model_zoo.adapters.service_answers import BadAnswerError, candidates_of, results_of
from model_zoo.bundle import Manifest

MAX_ANSWER_BYTES = 64 << 20
_FIRST_WAIT_SECONDS = 0.5
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
# nothing that asking again, or another picture, could mend
_SETUP = {401, 403, 404, 405, 407}


class _RequestError(Exception):
    """A request without a usable answer.

    Args:
        reason: What happened.
        again: Whether the same request may succeed later.
        wait: Seconds that the service asks to wait.
    """

    def __init__(self, reason: str, *, again: bool, wait: float | None = None) -> None:
        super().__init__(reason)
        self.again, self.wait = again, wait


class HttpDetector:
    """A detector that is asked over HTTP.

    Requests are repeated with growing waits (or the wait that the service asks
    for); a batch that stays without an answer is asked image by image, so that
    one bad image costs no other. Images that remain are reported by
    `UnansweredError`, never as empty pictures.

    Args:
        folder: The bundle: ``service.json``.
        manifest: Its manifest.
        settings: Score floor and number of detections.

    Raises:
        UserError: A damaged description, or the secret is not in the environment.
    """

    def __init__(self, folder: Path, manifest: Manifest, settings: InferenceSettings) -> None:
        path = bundle.listed_file(folder, manifest, services.SERVICE)
        self._service = services.read(path)
        self._manifest, self._settings = manifest, settings
        self._client = httpx.Client(
            timeout=self._service.timeout_seconds,
            headers={**self._service.request.headers, **_secret(self._service, manifest.name)},
            limits=httpx.Limits(max_connections=self._service.parallel),
            # a redirect would carry the secret to another host
            follow_redirects=False,
        )
        # idle connections go with the detector
        weakref.finalize(self, self._client.close)
        self._pace = _Pace(self._service.requests_per_second)
        self._failures = _Failures(self._service.give_up_after)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Class names in the order of the class ids."""
        return self._manifest.vocabulary

    def predict(self, images: Sequence[Image]) -> Detections:
        """See `model_zoo.adapters.base.Detector.predict`."""
        for image in images:
            check_image(image)
        size = self._service.batch_size
        chunks = [images[start : start + size] for start in range(0, len(images), size)]
        with ThreadPoolExecutor(self._service.parallel, thread_name_prefix=self._manifest.name) as pool:
            answers = [answer for chunk in pool.map(self._detect, chunks) for answer in chunk]
        found = to_table([Candidates.none() if isinstance(answer, str) else answer for answer in answers])
        reasons = {position: answer for position, answer in enumerate(answers) if isinstance(answer, str)}
        if reasons:
            raise UnansweredError(self._manifest.name, found, reasons, len(images))
        return found

    def _detect(self, images: Sequence[Image]) -> list[Candidates | str]:
        """Per image its detections, or the reason why there are none."""
        pictures = [_pack(image, self._service) for image in images]
        try:
            results: list[Any] = self._ask([data for data, _ in pictures])
        except _RequestError as error:
            if len(images) > 1 and not self._failures.dead:
                return [answer for image in images for answer in self._detect([image])]
            return [str(error)] * len(images)
        answers: list[Candidates | str] = []
        for image, (_, place), result in zip(images, pictures, results, strict=True):
            try:
                answers.append(self._understood(result, place))
            except BadAnswerError as error:
                # alone, the image may fare better
                answers += self._detect([image]) if len(images) > 1 else [str(error)]
        return answers

    def _understood(self, result: Any, place: Placement) -> Candidates:
        sent = (round(place.width * place.scale_x), round(place.height * place.scale_y))
        found = candidates_of(result, self._service, self.vocabulary, sent)
        found = found[found.score >= self._settings.score_floor]
        return finish(found, place, self._manifest.output, self._settings, len(self.vocabulary))

    def _ask(self, pictures: Sequence[bytes]) -> list[Any]:
        """One request, repeated as often as may be."""
        for attempt in range(self._service.retries + 1):
            if self._failures.dead:
                raise _RequestError(f"not asked: {self._failures.last}", again=False)
            self._pace.wait()
            try:
                results = results_of(self._send(pictures), self._service, len(pictures))
                if len(pictures) == 1:
                    # so that an answer without sense is asked for again
                    candidates_of(results[0], self._service, self.vocabulary, (1, 1))
                self._failures.reset()
                return results
            except (_RequestError, BadAnswerError) as error:
                problem = error if isinstance(error, _RequestError) else _RequestError(str(error), again=True)
            if not problem.again or attempt == self._service.retries:
                self._failures.count(str(problem), problem.again)
                raise problem
            time.sleep(_wait(attempt, problem.wait, self._service.max_wait_seconds))
        raise AssertionError("the last attempt returns or raises")

    def _send(self, pictures: Sequence[bytes]) -> Any:
        request = self._service.request
        kind = self._service.encoding
        if request.form is not None:
            body: dict[str, Any] = {"files": {request.form: (f"image.{kind}", pictures[0], f"image/{kind}")}}
        else:
            texts = [base64.b64encode(data).decode() for data in pictures]
            items = [_filled(request.item, {IMAGE: text}) for text in texts]
            body = {"json": _filled(request.body, {IMAGES: items, IMAGE: texts[0]})}
        deadline = time.monotonic() + self._service.timeout_seconds
        try:
            with self._client.stream(self._service.method, self._service.url, **body) as answer:
                self._check_status(answer)
                data = bytearray()
                for part in answer.iter_bytes():
                    data += part
                    if len(data) > MAX_ANSWER_BYTES:
                        raise _RequestError(f"an answer of more than {MAX_ANSWER_BYTES:,} bytes", again=False)
                    if time.monotonic() > deadline:  # httpx limits the wait for each part only
                        raise _RequestError(
                            f"no answer within {self._service.timeout_seconds:g} s", again=True
                        )
            return json.loads(bytes(data))
        except httpx.TimeoutException:
            raise _RequestError(f"no answer within {self._service.timeout_seconds:g} s", again=True) from None
        except httpx.HTTPError as error:
            raise _RequestError(f"{type(error).__name__}: {error}", again=True) from None
        except (ValueError, RecursionError) as error:
            raise _RequestError(f"the answer is not JSON: {error}", again=True) from None

    def _check_status(self, answer: httpx.Response) -> None:
        status = answer.status_code
        if status in _SETUP or answer.is_redirect:
            raise UserError(
                f"{self._service.url} answers {status} {answer.reason_phrase}",
                "Check the URL and the secret; a redirect is not followed, give its target.",
            )
        if not answer.is_success:
            wait = _seconds(answer.headers.get("retry-after"))
            raise _RequestError(
                f"HTTP {status} {answer.reason_phrase}", again=status in _TRY_AGAIN, wait=wait
            )


class _Pace:
    """Lets not more than so many requests begin each second, over all threads."""

    def __init__(self, per_second: float | None) -> None:
        self._gap = 1 / per_second if per_second else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Returns when the next request may begin."""
        if not self._gap:
            return
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + self._gap
        time.sleep(max(0.0, begin - now))


class _Failures:
    """Counts requests that failed in a row: after so many nobody is there, and asking on is pointless."""

    REST_SECONDS = 30.0

    def __init__(self, limit: int) -> None:
        self._limit, self._row, self._until = limit, 0, 0.0
        self._lock = threading.Lock()
        self.last = ""

    @property
    def dead(self) -> bool:
        """Whether the service is taken to be down; after a rest it is tried again."""
        return time.monotonic() < self._until

    def count(self, reason: str, of_service: bool) -> None:
        """A request failed for good; ``of_service``: not because of its image."""
        with self._lock:
            self.last = reason
            self._row = self._row + 1 if of_service else 0
            if self._row >= self._limit:
                self._until, self._row = time.monotonic() + self.REST_SECONDS, self._limit - 1

    def reset(self) -> None:
        """A request succeeded."""
        with self._lock:
            self._row, self._until = 0, 0.0


def _secret(service: Service, name: str) -> dict[str, str]:
    if service.auth is None:
        return {}
    value = os.environ.get(service.auth.environment)
    if not value:
        raise UserError(
            f"teacher {name}: the environment has no {service.auth.environment}",
            f"Set it to the secret of the header {service.auth.header}; it is not stored anywhere.",
        )
    return {service.auth.header: service.auth.prefix + value}


def _pack(image: Image, service: Service) -> tuple[bytes, Placement]:
    """An image as it is sent, and how its pixels lie in the original."""
    height, width = image.shape[:2]
    scale = min(1.0, (service.longest_side or max(height, width)) / max(height, width))
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    pixels: Any = image[:, :, ::-1]
    if (new_width, new_height) != (width, height):
        pixels = cv2.resize(
            np.ascontiguousarray(pixels), (new_width, new_height), interpolation=cv2.INTER_AREA
        )
    suffix, quality = (".png", []) if service.encoding == "png" else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95])
    _, data = cv2.imencode(suffix, np.ascontiguousarray(pixels), quality)
    return data.tobytes(), Placement(new_width / width, new_height / height, 0, 0, width, height)


def _filled(template: Any, values: dict[str, Any]) -> Any:
    if isinstance(template, str):
        return values.get(template, template)
    if isinstance(template, list):
        return [_filled(part, values) for part in template]
    if isinstance(template, dict):
        return {key: _filled(part, values) for key, part in template.items()}
    return template


def _wait(attempt: int, asked: float | None, limit: float) -> float:
    """Seconds until the next try; scattered, so that many workers do not come back at once."""
    own = _FIRST_WAIT_SECONDS * 2**attempt * random.uniform(0.5, 1)  # noqa: S311 - no secret
    return float(min(max(own, asked or 0.0), limit))


def _seconds(header: str | None) -> float | None:
    """A ``Retry-After``: seconds, or a date."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
