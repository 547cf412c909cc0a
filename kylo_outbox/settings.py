"""Every setting, read once from `.env` and the environment (the environment wins).

`load()` either returns settings that can be followed or raises one `Misconfigured` that lists every fault by name.
Values never appear in messages: a value may be a secret. Unknown `KYLO_*` names are faults, because a typing error in
a safety switch must not pass; unknown `KAFKA_*` names and unsafe old values are named in a warning and not followed.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from kylo_outbox.model.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

# Names of the four older systems that belong to the event-bus API; they are no typing errors.
_BUS_NAMES = frozenset(
    {
        "KAFKA_CONSUMER_GROUP",
        "KAFKA_GROUP_ID",
        "KAFKA_NUM_PARTITIONS",
        "KAFKA_REPLICATION_FACTOR",
        "KAFKA_MAX_POLL_RECORDS",
        "KAFKA_RETRIES",
        "KAFKA_BATCH_SIZE",
        "KAFKA_LINGER_MS",
        "KAFKA_COMPRESSION_TYPE",
        "KAFKA_ENABLED",
    }
)
_SAFE_VALUES = {"KAFKA_ENABLE_AUTO_COMMIT": "false", "KAFKA_AUTO_OFFSET_RESET": "earliest", "KAFKA_ACKS": "all"}
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_.*)?$")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _words(value: Any) -> Any:
    return tuple(word for word in re.split(r"[,\s]+", value) if word) if isinstance(value, str) else value


def _seconds(value: Any) -> Any:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", value.strip()) if isinstance(value, str) else None
    return float(found[1]) * _UNITS[found[2] or "s"] if found else value


def _interval(value: Any) -> Any:
    return None if value in {None, "", "adaptive"} else _seconds(value)


def _blank_is_unset(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _level(value: str) -> str:
    if value.upper() not in logging.getLevelNamesMapping():
        raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
    return value.upper()


Interval = Annotated[float | None, BeforeValidator(_interval)]
Seconds = Annotated[float, BeforeValidator(_seconds)]
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
Text = Annotated[str | None, BeforeValidator(_blank_is_unset)]


class Settings(BaseModel):
    """What the processes were told. Durations are seconds. Secrets are kept out of `repr`."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    pg_dsn_rw: Text = Field(None, alias="PG_DSN_RW", repr=False)
    kafka_brokers: Text = Field(None, validation_alias=AliasChoices("KAFKA_BROKERS", "KAFKA_BOOTSTRAP_SERVERS"))
    kafka_client_id: str = Field("kylo-outbox", alias="KAFKA_CLIENT_ID")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", alias="KAFKA_SECURITY_PROTOCOL"
    )
    kafka_sasl_mechanism: Text = Field(None, alias="KAFKA_SASL_MECHANISM")
    kafka_sasl_username: Text = Field(None, alias="KAFKA_SASL_USERNAME")
    kafka_sasl_password: Text = Field(None, alias="KAFKA_SASL_PASSWORD", repr=False)
    kafka_ssl_cafile: Text = Field(None, alias="KAFKA_SSL_CAFILE")
    kafka_ssl_certfile: Text = Field(None, alias="KAFKA_SSL_CERTFILE")
    kafka_ssl_keyfile: Text = Field(None, alias="KAFKA_SSL_KEYFILE")
    kafka_ssl_key_password: Text = Field(None, alias="KAFKA_SSL_KEY_PASSWORD", repr=False)
    kafka_topic_prefix: str = Field("zamaz-debate", alias="KAFKA_TOPIC_PREFIX")
    kafka_schema_registry_url: Text = Field(None, alias="KAFKA_SCHEMA_REGISTRY_URL")

    topic_txns: str = Field("txns.company.batches", alias="KAFKA_TOPIC_TXNS")
    topic_promote: str = Field("rules.promote.requests", alias="KAFKA_TOPIC_PROMOTE")
    group_txns: str = Field("kylo-workers-txns", alias="KAFKA_GROUP_TXNS")
    group_promote: str = Field("kylo-workers-promote", alias="KAFKA_GROUP_PROMOTE")
    route_via_kafka: bool = Field(default=True, alias="ROUTE_VIA_KAFKA")
    route_via_kafka_companies: Words = Field((), alias="ROUTE_VIA_KAFKA_COMPANIES")

    sheets_post: bool = Field(default=False, alias="KYLO_SHEETS_POST")
    sheets_endpoint: Text = Field(None, alias="KYLO_SHEETS_ENDPOINT")
    sheets_reads: int | None = Field(None, alias="KYLO_SHEETS_READS_PER_MINUTE", ge=1)
    sheets_writes: int | None = Field(None, alias="KYLO_SHEETS_WRITES_PER_MINUTE", ge=1)
    sheets_approvals_every: Seconds = Field(60.0, alias="KYLO_SHEETS_APPROVALS_EVERY", ge=5, allow_inf_nan=False)
    google_credentials: Text = Field(None, alias="GOOGLE_APPLICATION_CREDENTIALS")

    api_url: Text = Field(None, alias="KYLO_API_URL")
    http_host: str = Field("127.0.0.1", alias="KYLO_HTTP_HOST")
    http_port: int = Field(8080, alias="KYLO_HTTP_PORT", ge=0, le=65535)
    api_tokens: Words = Field((), alias="KYLO_API_TOKENS", repr=False)
    webhook_secrets: Words = Field((), alias="KYLO_WEBHOOK_SECRETS", repr=False)
    data_dir: Path = Field(Path(".kylo"), alias="KYLO_DATA_DIR")

    relay_interval: Interval = Field(None, alias="KYLO_RELAY_INTERVAL", gt=0, allow_inf_nan=False)
    relay_fencing: Literal["none", "kafka"] = Field("none", alias="KYLO_RELAY_FENCING")
    outbox_retention: Seconds = Field(7 * 86400.0, alias="KYLO_OUTBOX_RETENTION", ge=0, allow_inf_nan=False)
    backpressure_age: Seconds = Field(300.0, alias="KYLO_BACKPRESSURE_AGE", ge=0, allow_inf_nan=False)
    verify_every: Seconds = Field(300.0, alias="KYLO_VERIFY_EVERY", ge=0, allow_inf_nan=False)
    log_level: Annotated[str, AfterValidator(_level)] = Field("INFO", alias="KYLO_LOG_LEVEL")
    log_format: Literal["text", "json"] = Field("text", alias="KYLO_LOG_FORMAT")

    # What `env:NAME` references are looked up in: `.env` under the environment. Never shown.
    environ: dict[str, str] = Field(default_factory=dict, repr=False, exclude=True)

    def via_kafka(self, company_id: str) -> bool:
        """Whether this company's flow travels over Kafka (else it is handed over in process)."""
        return self.route_via_kafka and (
            not self.route_via_kafka_companies or company_id in self.route_via_kafka_companies
        )

    @property
    def all_via_kafka(self) -> bool:
        """Whether every company travels over Kafka, so that no direct delivery is needed."""
        return self.route_via_kafka and not self.route_via_kafka_companies

    def secrets(self) -> tuple[str, ...]:
        """Every secret text that must never reach a log line."""
        own = (self.kafka_sasl_password, self.kafka_ssl_key_password, *self.api_tokens, *self.webhook_secrets)
        return tuple(secret for secret in own if secret)


def load(environ: Mapping[str, str] | None = None, dotenv: Path | None = None) -> Settings:
    """Read `.env` of the working directory and the environment.

    Raises:
        Misconfigured: with every fault by name; values are never shown.
    """
    merged = {name: value for name, value in dotenv_values(dotenv or ".env").items() if value is not None}
    merged.update(os.environ if environ is None else environ)
    faults = _unknown_names(merged)
    try:
        settings = Settings.model_validate({**merged, "environ": merged})
    except ValidationError as invalid:
        faults += [f"{error['loc'][0]}: {error['msg']}" for error in invalid.errors(include_input=False)]
    if faults:
        raise Misconfigured("settings cannot be followed: " + "; ".join(sorted(faults)))
    _warn_about_old_names(merged)
    return settings


def known_names() -> frozenset[str]:
    """Every environment name that has a meaning here."""
    names: set[str] = set(_BUS_NAMES | _SAFE_VALUES.keys())
    for field in Settings.model_fields.values():
        alias = field.validation_alias or field.alias
        names.update(
            str(choice) for choice in (alias.choices if isinstance(alias, AliasChoices) else [alias]) if choice
        )
    return frozenset(names)


def _unknown_names(merged: Mapping[str, str]) -> list[str]:
    def injected(name: str, value: str) -> bool:
        return bool(_SERVICE_LINK.search(name)) or ("_PORT" in name and value.startswith("tcp://"))

    known = known_names()
    return [
        f"{name}: unknown name (the known ones are listed in docs/settings.md)"
        for name, value in merged.items()
        if name.startswith("KYLO_") and name not in known and not injected(name, value)
    ]


def _warn_about_old_names(merged: Mapping[str, str]) -> None:
    known = known_names()
    unknown = sorted(name for name in merged if name.startswith("KAFKA_") and name not in known)
    unsafe = [
        f"{name} (always {safe} here)" for name, safe in _SAFE_VALUES.items() if merged.get(name, safe).lower() != safe
    ]
    if unknown or unsafe:
        log.warning("settings not followed: %s", ", ".join([*unknown, *unsafe]))
