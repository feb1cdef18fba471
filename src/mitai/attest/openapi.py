"""The attestation service's interface as an OpenAPI 3.1 document."""

from __future__ import annotations

from typing import Final

from mitai import __version__

_BYTES: Final = {
    "type": "string",
    "contentEncoding": "base64",
    "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
}
_PROBLEM: Final = {
    "description": "Refused; `code` is stable (docs/errors.md).",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_BODIES: Final = {
    "application/vnd.mitai.evidence+json": {"schema": {"$ref": "#/components/schemas/Evidence"}},
    "application/vnd.mitai.hardware+json": {"schema": {"$ref": "#/components/schemas/Hardware"}},
    "application/cmw+json": {
        "schema": {"description": "A record (draft-ietf-rats-msg-wrap) of one of the types above.", "type": "array"}
    },
    "application/cmw+cbor": {"schema": {"type": "string", "format": "binary"}},
}


def _object(properties: dict[str, object], required: list[str] | None = None) -> dict[str, object]:
    return {"type": "object", "properties": properties, "required": required or list(properties)}


def _answer(description: str, schema: object, media_type: str = "application/json") -> dict[str, object]:
    return {"200": {"description": description, "content": {media_type: {"schema": schema}}}}


_EVIDENCE_PARTS: Final[dict[str, object]] = {
    "tee": {"type": "string"},
    "quote": _BYTES,
    "event_log": _BYTES,
    "endorsements": {"type": "object", "additionalProperties": _BYTES},
    "collateral": {"type": ["object", "null"]},
}

DOCUMENT: Final = {
    "openapi": "3.1.0",
    "info": {
        "title": "mitai attestation service",
        "version": __version__,
        "summary": "Evidence of a confidential machine in, an attestation result (EAR) out.",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    },
    "paths": {
        "/v1/challenge": {
            "post": {
                "operationId": "challenge",
                "summary": "Ask for the bytes that fresh evidence must cover.",
                "description": "Mitai evidence has them as its nonce; other evidence as the first 32 bytes of what the "
                "hardware signs for the caller.",
                "responses": _answer(
                    "A challenge.",
                    _object({"challenge": {"type": "string", "minLength": 44}, "expires_in": {"type": "integer"}}),
                ),
            }
        },
        "/v1/appraise": {
            "post": {
                "operationId": "appraise",
                "summary": "Have evidence appraised.",
                "description": "The answer is a signed result whatever the verdict: read `ear_status`.",
                "parameters": [
                    {
                        "name": "nonce",
                        "in": "query",
                        "description": "8 to 64 bytes in base64url that the result echoes.",
                        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{11,86}={0,2}$"},
                    }
                ],
                "requestBody": {"required": True, "content": _BODIES},
                "responses": {
                    **_answer("The result, a JWT.", {"type": "string"}, "application/eat+jwt"),
                    "400": _PROBLEM,
                    "408": _PROBLEM,
                    "413": _PROBLEM,
                    "415": _PROBLEM,
                    "503": _PROBLEM,
                },
            }
        },
        "/v1/keys": {
            "get": {
                "operationId": "keys",
                "summary": "The keys that sign results, as a JWK set. Pin them by another way than this connection.",
                "responses": _answer("Keys.", _object({"keys": {"type": "array", "items": {"type": "object"}}})),
            }
        },
        "/v1/policy": {
            "get": {
                "operationId": "policy",
                "summary": "The appraisal policy in force, and the id under which results name it.",
                "responses": _answer("A policy.", _object({"id": {"type": "string"}, "toml": {"type": "string"}})),
            }
        },
        "/healthz": {
            "get": {
                "operationId": "healthz",
                "summary": "A sign of life.",
                "responses": _answer("It lives.", _object({"status": {"const": "ok"}})),
            }
        },
    },
    "components": {
        "schemas": {
            "Evidence": _object(
                _EVIDENCE_PARTS | {"v": {"const": 1}, "devices": _BYTES, "claims": _BYTES, "nonce": _BYTES},
                ["tee", "quote", "claims", "nonce"],
            )
            | {"additionalProperties": False},
            "Hardware": _object(_EVIDENCE_PARTS, ["tee", "quote"]) | {"additionalProperties": False},
            "Problem": _object(
                {
                    "type": {"type": "string"},
                    "status": {"type": "integer"},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                    "hint": {"type": "string"},
                },
                ["type", "status", "code", "detail"],
            ),
        }
    },
}
