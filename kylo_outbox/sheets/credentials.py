"""Who we are at Google: nobody (a stand-in), a service account file, or the application default credentials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import google.auth
import google.auth.exceptions
from google.auth.credentials import AnonymousCredentials
from google.oauth2 import service_account

from kylo_outbox.model.errors import Misconfigured

SCOPES = ("https://www.googleapis.com/auth/spreadsheets",)


def load(endpoint: str | None, credentials_file: str | None) -> Any:
    """Return google-auth credentials; reads files, and the metadata server only as the very last resort.

    Raises:
        Misconfigured: The file is missing, unreadable or no key, or there are no default credentials. The message
            names the path and never shows its content.
    """
    if endpoint is not None:
        return AnonymousCredentials()  # type: ignore[no-untyped-call]
    if credentials_file is not None and _kind(credentials_file) == "service_account":
        return _service_account(credentials_file)
    try:
        found, _project = google.auth.default(scopes=SCOPES)
    except google.auth.exceptions.DefaultCredentialsError:
        raise Misconfigured(
            "No Google credentials: set GOOGLE_APPLICATION_CREDENTIALS to a service account file "
            "(or KYLO_SHEETS_ENDPOINT to a stand-in, or KYLO_SHEETS_POST=0)."
        ) from None
    return found


def address(credentials: Any) -> str | None:
    """Return the e-mail address that a workbook must be shared with, when the credentials have one."""
    found = getattr(credentials, "service_account_email", None)
    return found if isinstance(found, str) and "@" in found else None


def _kind(path: str) -> str:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise Misconfigured(
            f"GOOGLE_APPLICATION_CREDENTIALS: {path} cannot be read ({error.strerror}). Check path and permissions."
        ) from None
    except ValueError:
        raise Misconfigured(f"GOOGLE_APPLICATION_CREDENTIALS: {path} is not a JSON key file.") from None
    return str(content.get("type")) if isinstance(content, dict) else ""


def _service_account(path: str) -> Any:
    try:
        return service_account.Credentials.from_service_account_file(path, scopes=SCOPES)  # type: ignore[no-untyped-call]
    except (ValueError, google.auth.exceptions.GoogleAuthError):
        # The original message may quote parts of the key; the path is enough to find the fault.
        raise Misconfigured(
            f"GOOGLE_APPLICATION_CREDENTIALS: {path} is not a usable service account key. Download it again."
        ) from None
