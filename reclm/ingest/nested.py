"""Find events that are nested: a row is a session, or an order, with a list of them inside.

In: a log. Out: the log with one row for each entry of the list that holds the items, when settings or the usual names
tell which list that is; else InputError, which says what the lists hold.
"""

from __future__ import annotations

from dataclasses import replace

from reclm.errors import InputError
from reclm.ingest.files import LogFile, quote_text
from reclm.ingest.mapping import SYNONYMS, plain_name
from reclm.settings.data import DataSettings


def with_entries(data: DataSettings, file: LogFile) -> LogFile:
    """Return `file`, or one row for each entry of its list of items. Raises InputError when that cannot be told."""
    names = {plain_name(name) for name in ([data.item_column] if data.item_column else SYNONYMS["item"].split())}
    if not file.lists or any(plain_name(name) in names for name in file.columns):
        return file
    holding = [name for name, fields in file.lists.items() if any(plain_name(field) in names for field in fields)]
    if len(holding) == 1:
        return replace(file, nested=holding[0])
    raise _not_told(file)


def _not_told(file: LogFile) -> InputError:
    inside = "; ".join(f"the list {name!r}, whose entries have {', '.join(f)}" for name, f in file.lists.items())
    name, fields = next(iter(file.lists.items()))
    outer = [column for column in file.columns if column not in file.lists]
    keep = f"{outer[0]}, " if outer else ""
    query = f"select {keep}unnest({name}, recursive := true) from {quote_text(file.path.name)}"
    return InputError(
        f"{file.path} has no column of items (its columns are {', '.join(file.columns)}): they are inside {inside}. "
        f"Name the field that is the item, for example --set data.item_column={fields[0]}: each entry is then a row "
        f"with the columns {', '.join([*outer, *fields])}. Or flatten the file with DuckDB: copy ({query}) to "
        "'events.parquet'"
    )
