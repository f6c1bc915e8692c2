"""A certificate of a test's own."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path


def certificate(folder: Path) -> ssl.SSLContext | None:
    """A certificate for the name `localhost` in `folder/cert.pem`; None without the tool that makes one."""
    tool = shutil.which("openssl")
    if tool is None:
        return None
    command = [
        tool,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", str(folder / "cert.pem")]
    subprocess.run([*command, "-keyout", str(folder / "key.pem")], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
