"""Commands of serving: the HTTP service, its keys, SQL and documentation of the tables. Registered by
`reclm.cli.app`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from reclm.cli.common import SetOption, SettingsFileOption, WorkspaceOption, guarded, load
from reclm.serving.api_keys import KEY_SCOPES

key_app = typer.Typer(
    name="key", no_args_is_help=True, rich_markup_mode=None, help="API keys of the online recommender."
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(serve)
    app.command()(sql)
    app.command()(docs)
    key_app.command("add")(key_add)
    key_app.command("list")(key_list)
    key_app.command("remove")(key_remove)
    app.add_typer(key_app)


@guarded
def serve(
    workspace: WorkspaceOption = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on [default: serve.host].")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port; 0: any free one [default: serve.port].")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes that answer [default: serve.workers].")
    ] = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Serve recommendations over HTTP, with a page to explore.

    Runs until Ctrl-C, and takes in a new champion, new items and new features by itself. Without API keys it is open on
    loopback and refuses to listen elsewhere. The description of the API is at /openapi.json. Needs a champion.

    \b
    Example:
      reclm serve --workspace workspace-demo --port 8000
    """
    from reclm.serving.server import serve as run

    wanted = [f"serve.host={host}"] if host is not None else []
    wanted += [f"serve.port={port}"] if port is not None else []
    wanted += [f"serve.workers={workers}"] if workers is not None else []
    run(load(workspace, [*(overrides or []), *wanted], settings_file, uses=("feast",)))


@guarded
def key_add(
    name: Annotated[str, typer.Argument(help="Name of the key's user; shown in logs and counted for limits.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help=f"What it opens, {' / '.join(KEY_SCOPES)}; may be repeated [default: recommend]."),
    ] = None,
    days: Annotated[float | None, typer.Option("--days", help="Days until it expires [default: never].")] = None,
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Make a key and print it, once: only its hash is stored.

    A running service accepts it at once. Scope explore shows everybody's profile and history; admin opens everything.

    \b
    Example:
      reclm key add shop --scope recommend --scope events --days 90
    """
    from reclm.serving import api_keys

    print(api_keys.add(load(workspace, overrides, settings_file).paths, name, scope or ["recommend"], days))


@guarded
def key_list(
    workspace: WorkspaceOption = None, overrides: SetOption = None, settings_file: SettingsFileOption = None
) -> None:
    """List the names, scopes and dates of the keys, never a key."""
    from reclm.serving.api_keys import ApiKeys

    for key in ApiKeys(load(workspace, overrides, settings_file).paths).all():
        until = "expired" if key.expired else f"until {key.expires_at[:10]}" if key.expires_at else "no end"
        print(f"{key.name:<24}{','.join(key.scopes):<20}since {key.created_at[:10]}  {until}")


@guarded
def key_remove(
    name: Annotated[str, typer.Argument(help="The key's name.")],
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Remove a key; a running service refuses it at once."""
    from reclm.serving import api_keys

    api_keys.remove(load(workspace, overrides, settings_file).paths, name)


@guarded
def sql(
    query: Annotated[str | None, typer.Argument(help="One statement; without it, a shell opens.")] = None,
    output: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", "-f", help="table, csv, or one JSON object per line.")
    ] = "table",
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Query the published warehouse, read-only.

    Nothing can be changed, and no build is held up. Without a query it opens a shell. docs/analysts.md has queries to
    begin with.

    \b
    Example:
      reclm sql "select activity, count(*) from fct_user_status where snapshot = 'serve' group by all" -f csv
    """
    from reclm.warehouse import sql as warehouse_sql

    settings = load(workspace, overrides, settings_file)
    if query is None:
        warehouse_sql.shell(settings, output)
    else:
        warehouse_sql.show(settings, query, output)


@guarded
def docs(
    port: Annotated[int, typer.Option("--port", help="Port on loopback; 0: any free one.")] = 8081,
    build_only: Annotated[bool, typer.Option("--build-only", help="Write the page and print where it is.")] = False,
    workspace: WorkspaceOption = None,
    overrides: SetOption = None,
    settings_file: SettingsFileOption = None,
) -> None:
    """Serve dbt's documentation of every table.

    Makes the page and serves it on loopback until Ctrl-C.

    \b
    Example:
      reclm docs --build-only
    """
    from reclm.warehouse import sql as warehouse_sql
    from reclm.warehouse.build import docs as build_docs

    page = build_docs(load(workspace, overrides, settings_file))
    if build_only:
        print(page)
    else:
        warehouse_sql.serve_page(page, port)
