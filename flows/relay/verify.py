"""Whether a delivery comes from the registry, is fresh, and was not seen before.

MLflow signs ``<delivery id>.<timestamp>.<body>`` with HMAC-SHA256 and sends
``v1,<base64>`` (MLflow's docs, "Model Registry Webhooks"; the scheme is that of
standardwebhooks.com).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Mapping

SIGNATURE = "x-mlflow-signature"
TIMESTAMP = "x-mlflow-timestamp"
DELIVERY = "x-mlflow-delivery-id"
TOLERANCE = 300
"""Seconds that the sender's clock may differ."""
MAX_ID = 128
MAX_REMEMBERED = 10_000


class RefusedError(Exception):
    """A delivery that is not believed; the message is for our log, the sender hears nothing of it."""


def check(headers: Mapping[str, str], body: bytes, secret: bytes, now: float) -> str:
    """Checks age and signature.

    Args:
        headers: By lower-case name.
        body: As it was received, to the byte.
        secret: Shared with the registry.
        now: Seconds since the epoch.

    Returns:
        The delivery's id.

    Raises:
        RefusedError: A header is missing or malformed, the delivery is too old or
            too new, or the signature is wrong.
    """
    delivery, timestamp, signature = (headers.get(name, "") for name in (DELIVERY, TIMESTAMP, SIGNATURE))
    if not (0 < len(delivery) <= MAX_ID and delivery.isascii()):
        raise RefusedError("no delivery id")
    if not (0 < len(timestamp) <= 12 and timestamp.isascii() and timestamp.isdecimal()):
        raise RefusedError("no timestamp")
    expected = sign(delivery, timestamp, body, secret)
    # whatever is wrong, the signature is looked at first: an answer about age is no oracle for forgers
    if not any(_same(one, expected) for one in signature[:1024].split(" ")):
        raise RefusedError("the signature is wrong")
    if abs(now - int(timestamp)) > TOLERANCE:
        raise RefusedError(f"it is {now - int(timestamp):.0f} s old")
    return delivery


def sign(delivery: str, timestamp: str, body: bytes, secret: bytes) -> bytes:
    """The signature's 32 bytes."""
    return hmac.digest(secret, f"{delivery}.{timestamp}.".encode() + body, hashlib.sha256)


def _same(text: str, expected: bytes) -> bool:
    version, _, encoded = text.partition(",")
    try:
        given = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
    return version == "v1" and hmac.compare_digest(given, expected)


class Seen:
    """Deliveries that were accepted, for as long as they could be accepted again."""

    def __init__(self) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()

    def add(self, delivery: str, now: float) -> bool:
        """Remembers a delivery.

        Returns:
            False if it is known.
        """
        while self._until and (next(iter(self._until.values())) < now or len(self._until) >= MAX_REMEMBERED):
            self._until.popitem(last=False)
        if delivery in self._until:
            return False
        # the sender's clock may be ahead by the tolerance, and stay so for another one
        self._until[delivery] = now + 2 * TOLERANCE
        return True
