"""A real HTTPS server on loopback, with a certificate of its own authority."""

import datetime
import ipaddress
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Respond = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """A request, with what answers it."""

    respond: Respond
    seen: Counter[str]

    def do_GET(self) -> None:
        self.seen[self.path] += 1
        type(self).respond(self)

    def give(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answers in one piece; `_` in the name of a header stands for `-`."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is said."""


class HttpsServer(ThreadingHTTPServer):
    """Counts the connections that it accepts."""

    daemon_threads = True
    connections = 0
    seen: Counter[str]

    def get_request(self) -> tuple[object, object]:
        self.connections += 1
        return super().get_request()

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no error."""

    @property
    def port(self) -> int:
        return self.server_address[1]


@contextmanager
def https_server(certificate: Path, respond: Respond, host: str = "127.0.0.1") -> Iterator[HttpsServer]:
    """Runs a server for the length of the block.

    Args:
        certificate: as `write_certificate` gives it.
        respond: answers a request.
        host: loopback address.
    """
    seen = Counter[str]()
    handler = type("Handler", (Request,), {"respond": staticmethod(respond), "seen": seen})
    server = HttpsServer((host, 0), handler)
    server.seen = seen
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_certificate(path: Path, *names: str) -> Path:
    """Writes a key and a certificate, which signs itself, for host names and addresses; returns the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([_named(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def _named(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
