"""Notify of failed tasks and missed deadlines.

In: Airflow's context. Out: a log line and, by settings, a webhook call and a mail. Airflow's processes import these
functions by name, so they live in the package and not in a DAG file. A webhook or mail server that cannot be reached is
a line in the log, never an error of its own. Messages leave the house, so they must name no user: values of a log are
masked, and the task's own log has the whole text.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from reclm.errors import ReclmError

log = logging.getLogger(__name__)
TIMEOUT = 10
MASK = "…"
QUOTED = re.compile(r"""(?<!\w)(?:'[^\n]*?'|"[^\n]*?")(?!\w)""")
WITH_DIGITS = re.compile(r"(?<!\S)(?<!\bline )(?<!\brow )\S*[\d@]\S*")
FILE_NAME = re.compile(r"[\w./-]+\.(?:csv|tsv|parquet|jsonl?|ndjson|gz|zip|log|duckdb)[.,:;]?")


def failed(context: Mapping[str, Any]) -> None:
    """Notify of a failed task; the `on_failure_callback` of every task, called when no retry is left."""
    instance, error = context["task_instance"], context.get("exception")
    about = {"dag_id": instance.dag_id, "task_id": instance.task_id, "run_id": instance.run_id}
    _notify("task_failed", **about, error=without_values(error))


def without_values(error: BaseException | None) -> str:
    """Return the first line of an error's text without values that a log may hold, such as user ids.

    Masked is what is quoted and every word with a digit or `@`, but for file names and the numbers of lines and rows.
    The texts of other libraries follow no rule: of their errors only the name is left.
    """
    if error is not None and isinstance(error.__cause__, ReclmError):  # Airflow's error around one of ours
        error = error.__cause__
    name = type(error).__name__
    if not isinstance(error, ReclmError):
        return name
    first = next(iter(str(error).splitlines()), "")
    masked = WITH_DIGITS.sub(
        lambda word: word[0] if FILE_NAME.fullmatch(word[0]) else MASK, QUOTED.sub(f"'{MASK}'", first)
    )
    return f"{name}: {masked}"


def deadline_missed(context: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
    """Notify of a DAG run that missed its deadline; the callback of every deadline."""
    run = (context or {}).get("dag_run") or {}
    about = run if isinstance(run, Mapping) else {name: getattr(run, name, None) for name in ("dag_id", "run_id")}
    _notify("deadline_missed", dag_id=about.get("dag_id"), run_id=about.get("run_id"))


def _notify(event: str, **about: Any) -> None:
    from reclm.settings.loading import load

    settings = load([]).schedule
    message = {"event": event, **{key: value for key, value in about.items() if value is not None}}
    log.error("reclm %s", json.dumps(message, default=str))
    for name, send in (("webhook", _post), ("email", _mail)):
        if getattr(settings, name):
            try:
                send(settings, message)
            except Exception as error:
                log.error("reclm could not notify by %s of %s: %s", name, event, error)


def _post(settings: Any, message: dict[str, Any]) -> None:
    import httpx

    body = json.dumps(message, default=str)
    httpx.post(
        settings.webhook, content=body, headers={"content-type": "application/json"}, timeout=TIMEOUT
    ).raise_for_status()


def _mail(settings: Any, message: dict[str, Any]) -> None:
    import smtplib
    from email.message import EmailMessage

    mail = EmailMessage()
    mail["Subject"] = f"reclm: {message['event']} in {message.get('dag_id', 'a DAG')}"
    mail["From"], mail["To"] = "reclm@localhost", ", ".join(settings.email)
    mail.set_content("\n".join(f"{key}: {value}" for key, value in message.items()))
    host, _, port = settings.smtp.partition(":")
    with smtplib.SMTP(host, int(port or 25), timeout=TIMEOUT) as server:
        server.send_message(mail)
