"""How schemathesis talks to a sidecar: it signs, writes MessagePack and JSON Lines, and leaves out what the document cannot say.

CONTEXT_MANAGER_KEYS names the key file, as it does for an agent.
"""

import base64
import hashlib
import hmac
import json
import os
import time
import uuid
from urllib.parse import urlsplit

import msgpack
import schemathesis
from hypothesis import strategies
from requests.auth import AuthBase
from schemathesis.core.parameters import ParameterLocation


class Signature(AuthBase):
    """HTTP Message Signatures (RFC 9421) with hmac-sha256, over what is really sent."""

    def __call__(self, request):
        with open(os.environ["CONTEXT_MANAGER_KEYS"]) as file:
            key = json.load(file)["active"]
        body = request.body or b""
        body = body.encode() if isinstance(body, str) else body
        url = urlsplit(request.url)
        digest = "sha-256=:" + base64.b64encode(hashlib.sha256(body).digest()).decode() + ":"
        what = (
            '("@method" "@path" "@query" "content-digest")'
            f';created={int(time.time())};nonce="{uuid.uuid4().hex}";keyid="{key["id"]}"'
        )
        base = (
            f'"@method": {request.method}\n"@path": {url.path}\n"@query": ?{url.query}\n'
            f'"content-digest": {digest}\n"@signature-params": {what}'
        )
        mac = hmac.digest(base64.b64decode(key["key"]), base.encode(), "sha256")
        request.headers["Content-Digest"] = digest
        request.headers["Signature-Input"] = "sig1=" + what
        request.headers["Signature"] = "sig1=:" + base64.b64encode(mac).decode() + ":"
        return request


SIGNATURE = Signature()
SIGNED_BY = ["Content-Digest", "Signature-Input", "Signature"]


@schemathesis.auth()
class Signed:
    """Signs everything but the cases whose point is that a header of the signature is missing."""

    def get(self, case, context):
        return SIGNATURE

    def set(self, case, data, context):
        negative = case.meta is not None and case.meta.is_negative_at(ParameterLocation.HEADER)
        if not negative or all(name in (case.headers or {}) for name in SIGNED_BY):
            case._auth = data


KEYS = {}


@schemathesis.hook
def before_call(context, case, kwargs):
    """Keeps the rules that a schema cannot express, so that what it allows is accepted."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    key = (case.headers or {}).get("Idempotency-Key")
    # A key is for one write; what is generated may repeat it for another.
    if key is not None and KEYS.setdefault(key, repr(case.body)) != repr(case.body):
        case.headers["Idempotency-Key"] = uuid.uuid4().hex
    # Beside an embedded store there is no other memory than the agent's own.
    for name in ["agent", "space"]:
        (case.query or {}).pop(name, None)
    for message in case.body.get("contexts", [case.body]) if isinstance(case.body, dict) else []:
        message.pop("scope", None)
        message.pop("scopes", None)
        # Only a context that there is can be superseded.
        message.pop("supersedes", None)
        keep_relations(message, case.operation.path.endswith("/delete"))


def keep_relations(message, deletes):
    """What must hold between fields: a range has room between its bounds, and a deletion says of what."""
    conditions = message.get("filter")
    for condition in conditions.values() if isinstance(conditions, dict) else []:
        bounds = condition.get("range") if isinstance(condition, dict) else None
        given = [name for name, bound in bounds.items() if bound is not None] if isinstance(bounds, dict) else []
        for name in given[1:]:
            del bounds[name]
    names = ("session", "levels", "filter", "created_before")
    if deletes and not any(message.get(name) for name in names):
        message["session"] = "a session"


def of_64_bits(value):
    """MessagePack has no larger integers; a float that is as much out of bounds takes their place."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return 1e300 if value > 0 else -1e300
    if isinstance(value, list):
        return [of_64_bits(entry) for entry in value]
    if isinstance(value, dict):
        return {key: of_64_bits(entry) for key, entry in value.items()}
    return value


@schemathesis.serializer("application/msgpack")
def to_message_pack(_, value):
    return value if isinstance(value, bytes) else msgpack.packb(of_64_bits(value))


@schemathesis.deserializer("application/msgpack")
def from_message_pack(_, response):
    return msgpack.unpackb(response.content)


# JSON Lines are text for OpenAPI 3.1; these are the lines that an import is for, and some that it must refuse one by one.
LINES = strategies.lists(
    strategies.one_of(
        strategies.builds(
            lambda id, text, time: {
                "id": str(id), "text": text, "level": "long_term", "version": 1, "created_at": time, "updated_at": time,
            },
            strategies.uuids(),
            strategies.text(),
            strategies.integers(),
        ).map(json.dumps),
        strategies.just('{"exported": 1}'),
        strategies.text(),
    ),
    max_size=5,
).map(lambda lines: "\n".join(lines).encode(errors="replace"))
schemathesis.openapi.media_type("application/jsonl", LINES, aliases=["application/x-ndjson"])
