"""Prepares Airflow before its services start: tables, one-slot pools, admin password, Grafana's database role.

The service `init` runs it at every start; running it again only applies changed settings.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

READABLE = ("dag_run", "asset", "asset_event")
"""Airflow's tables that the dashboard reads; connections and variables are not among them."""


def write_password(file: Path, user: str, password: str) -> None:
    """Write the password file of Airflow's simple auth manager, readable by its owner only."""
    file.touch(mode=0o600)
    file.write_text(json.dumps({user: password}) + "\n")


def create_grafana_role(url: str, password: str) -> None:
    """Create the role `grafana`, which may read only READABLE."""
    import psycopg2
    from psycopg2 import sql

    with psycopg2.connect(url.replace("+psycopg2", "", 1)) as connection, connection.cursor() as cursor:
        cursor.execute("select 1 from pg_roles where rolname = 'grafana'")
        if cursor.fetchone() is None:
            cursor.execute("create role grafana login")
        cursor.execute(sql.SQL("alter role grafana password {}").format(sql.Literal(password)))
        for table in READABLE:
            cursor.execute(sql.SQL("grant select on {} to grafana").format(sql.Identifier(table)))


def main() -> None:
    from reclm.schedule.standalone import prepare

    prepare(os.environ)
    write_password(
        Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]),
        "admin",
        os.environ["AIRFLOW_ADMIN_PASSWORD"],
    )
    create_grafana_role(os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"], os.environ["GRAFANA_DATABASE_PASSWORD"])


if __name__ == "__main__":
    main()
