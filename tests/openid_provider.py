"""An OpenID provider for tests: a real HTTP server with real keys, which can be told to lie."""

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT_ID, CLIENT_SECRET = "lentigo-admin", "a client secret & more"


class Provider:
    """Authorization code with PKCE (RFC 7636), strictly checked on its side too."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
        self.announced_issuer = issuer
        self.claims: dict[str, Any] = {}
        """Added to, or in the place of, what an honest ID token holds; None leaves one out."""
        self.signs_with = "RS256"
        self.user = {"sub": "person-7", "preferred_username": "ada", "groups": ["derm", "staff"]}
        self.granted: dict[str, dict[str, str]] = {}
        self.token_requests: list[dict[str, str]] = []

    def authorize(self, url: str) -> str:
        """Log the person in; return the address that the browser is sent back to."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT_ID
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(16)
        self.granted[code] = asked
        answer = {"code": code, "state": asked["state"], "iss": self.issuer}
        return f"{asked['redirect_uri']}?{urlencode(answer)}"

    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.announced_issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
        }

    def keys(self) -> dict[str, Any]:
        return {"keys": [self.key.as_dict(private=False)]}

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        self.token_requests.append(form)
        kind, _, encoded = authorization.partition(" ")
        given = base64.b64decode(encoded).decode() if kind == "Basic" else ""
        if given != f"{CLIENT_ID}:{CLIENT_SECRET}":
            return 401, {"error": "invalid_client"}
        asked = self.granted.pop(form.get("code", ""), None)
        if asked is None or asked["redirect_uri"] != form.get("redirect_uri"):
            return 400, {"error": "invalid_grant"}
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != asked["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        return 200, {
            "access_token": "unused",
            "token_type": "Bearer",
            "expires_in": 60,
            "id_token": self.id_token(asked["nonce"]),
        }

    def id_token(self, nonce: str) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            **self.user,
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        if self.signs_with == "none":
            return f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(claims)}."
        if self.signs_with == "HS256":  # with what everybody may read: the public key
            head = _part({"alg": "HS256", "kid": self.key.kid})
            signed = f"{head}.{_part(claims)}"
            digest = hmac.digest(self.key.as_pem(private=False), signed.encode(), "sha256")
            return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
        if self.signs_with == "another key":
            stranger = RSAKey.generate_key(2048, {"kid": "one"})
            return jwt.encode({"alg": "RS256", "kid": "one"}, claims, stranger)
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)


def _part(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


@contextmanager
def provider(host: str = "127.0.0.1") -> Iterator[Provider]:
    """Yield a provider on loopback; to a browser, ``localhost`` is another site than 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place = urlsplit(self.path).path
            if place == "/.well-known/openid-configuration":
                self._answer(200, found.metadata())
            elif place == "/keys":
                self._answer(200, found.keys())
            elif place == "/authorize":  # the person has logged in there long ago
                self.send_response(302)
                self.send_header("location", found.authorize(self.path))
                self.end_headers()
            else:
                self._answer(404, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self._answer(*found.token(form, self.headers.get("authorization", "")))

        def _answer(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    found = Provider(f"http://{host}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join(20)
        server.server_close()
