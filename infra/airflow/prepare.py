"""Before Airflow's services start: its tables, the one-slot pools, the admin's password, what Grafana may read.

Run by the service `init` at every start; doing it again changes nothing but what was changed in the settings.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

READABLE = ("dag_run", "asset", "asset_event")
"""Tables of Airflow's that the dashboard reads. Connections and variables are not among them."""


def write_password(file: Path, user: str, password: str) -> None:
    """The file that Airflow's simple auth manager looks passwords up in, readable by its owner alone."""
    file.touch(mode=0o600)
    file.write_text(json.dumps({user: password}) + "\n")


def let_grafana_read(url: str, password: str) -> None:
    """The role `grafana`, which may read READABLE and nothing else."""
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
    let_grafana_read(os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"], os.environ["GRAFANA_DATABASE_PASSWORD"])


if __name__ == "__main__":
    main()
