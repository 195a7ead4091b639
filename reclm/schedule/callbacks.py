"""Who is told when a task fails for good or a run misses its deadline: the log always, a webhook and mail by settings.

Airflow's processes import these by name, so they live in the package and not in a DAG file. Telling must never break
what it tells of: a webhook or mail server that cannot be reached is a line in the log.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)
TIMEOUT = 10


def failed(context: Mapping[str, Any]) -> None:
    """`on_failure_callback` of every task: called when no retry is left."""
    instance, error = context["task_instance"], context.get("exception")
    _tell("task_failed", dag_id=instance.dag_id, task_id=instance.task_id, run_id=instance.run_id, error=f"{error}")


def deadline_missed(context: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
    """Callback of the deadline of every DAG run."""
    run = (context or {}).get("dag_run") or {}
    about = run if isinstance(run, Mapping) else {name: getattr(run, name, None) for name in ("dag_id", "run_id")}
    _tell("deadline_missed", dag_id=about.get("dag_id"), run_id=about.get("run_id"))


def _tell(event: str, **about: Any) -> None:
    from reclm.settings.loading import load

    settings = load([]).schedule
    message = {"event": event, **{key: value for key, value in about.items() if value is not None}}
    log.error("reclm %s", json.dumps(message, default=str))
    for name, tell in (("webhook", _post), ("email", _mail)):
        if getattr(settings, name):
            try:
                tell(settings, message)
            except Exception as error:
                log.error("reclm could not tell %s of %s: %s", name, event, error)


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
