"""What `doctor` says of Google Sheets: the address to share with, and which workbook does not let us in."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from kylo_outbox.flows.doctor.sheets import workbooks
from kylo_outbox.model.companies import new_company
from kylo_outbox.model.errors import Transient
from kylo_outbox.sheets.errors import SheetUnavailable
from kylo_outbox.sheets.gateway import GoogleSheets

ADDRESS = "poster@kylo.iam.gserviceaccount.com"


class Google:
    """Lets in to some workbooks."""

    def __init__(self, account: str | None, refused: Any = ()) -> None:
        self.account, self._refused, self.asked = account, set(refused), 0

    def tabs(self, spreadsheet_id: str) -> dict[str, Any]:
        """Count, and refuse what is not shared."""
        self.asked += 1
        if spreadsheet_id == "away":
            raise Transient("Google is away")
        if spreadsheet_id in self._refused:
            raise SheetUnavailable(f"workbook {spreadsheet_id} is not shared", "share it")
        return {}


def findings(google: Google, *books: str) -> list[tuple[str, str, str, str]]:
    """What doctor finds with one company for each workbook."""
    companies = [new_company(f"{710 + n}", book) for n, book in enumerate(books)]
    found = workbooks(lambda: google, companies)  # type: ignore[arg-type, return-value]
    return [(each.level, each.subject, each.cause, each.remedy) for each in found]


def test_the_address_to_share_with_is_shown_and_who_has_not():
    """The account of the service account file, and for each closed workbook whom to share it with."""
    found = findings(Google(ADDRESS, {"closed"}), "open", "closed")
    assert found[0] == ("note", ADDRESS, "workbooks must be shared with this address, as editor", "")
    assert [(level, subject, remedy) for level, subject, _, remedy in found[1:]] == [
        ("error", "company 711", f"share the workbook with {ADDRESS} as editor")
    ]
    assert "closed" in found[1][2]


def test_the_address_is_that_of_the_file(tmp_path):
    """Of the service account file itself; nobody is asked for it."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = {"type": "service_account", "client_email": ADDRESS, "token_uri": "https://oauth2.googleapis.com/token"}
    held = tmp_path / "key.json"
    held.write_text(json.dumps({**key, "private_key": private.decode(), "project_id": "kylo"}), encoding="utf-8")
    with closing(GoogleSheets(credentials_file=str(held))) as google:
        assert google.account == ADDRESS
        assert google.quota_account == f"kylo/{ADDRESS}"


def test_a_stand_in_has_no_address():
    """Then the question is whether it runs."""
    [(level, _, _, remedy)] = findings(Google(None, {"closed"}), "closed")
    assert (level, remedy) == ("error", "does the stand-in run, and has it the workbook?")


def test_no_more_than_ten_workbooks_cost_quota():
    """And it says so."""
    google = Google(ADDRESS)
    found = findings(google, *[f"b{n}" for n in range(12)])
    assert google.asked == 10
    assert found[-1][2] == "10 of 12 workbooks were looked at"


def test_google_away_is_for_the_caller():
    """Nothing is said about workbooks that nobody could look at."""
    with pytest.raises(Transient):
        findings(Google(ADDRESS), "away")
