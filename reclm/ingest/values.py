"""Write typed values of parquet and JSON files as the text that lands.

In: a SQL expression and the type that DuckDB found. Out: SQL of its text. Whole numbers lose the `.0` of a float, NaN
is null, nested values are JSON, and lists stay lists, of text. Every expression takes null and never fails on a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

LARGEST_EXACT = "9e15"
"""Doubles from here on are not exact to the unit: they are written as they are."""


def is_list(kind: str) -> bool:
    return kind.endswith("[]")


def is_nested(kind: str) -> bool:
    """Return whether a type holds named parts (STRUCT, MAP), or lists of lists."""
    return kind.startswith(("STRUCT", "MAP", "UNION", "VARIANT")) or kind.endswith("]")


def is_by_column(types: Mapping[str, str]) -> bool:
    """Return whether every field is an object, or the fields are those of a frame: a table written by column."""
    return set(types) == {"columns", "index", "data"} or (
        len(types) > 1 and all(kind.startswith(("STRUCT", "MAP")) and not is_list(kind) for kind in types.values())
    )


def parquet_text(value: str, kind: str) -> str:
    """Return SQL of a parquet column as VARCHAR, or as VARCHAR[] when it is a list."""
    if is_list(kind):
        part = parquet_text("part", kind.removesuffix("[]")) if not is_list(kind[:-2]) else "to_json(part)::varchar"
        return f"list_transform({value}, lambda part: {part})"
    if is_nested(kind):
        return f"to_json({value})::varchar"
    if kind in ("DOUBLE", "FLOAT"):
        whole = f"isfinite({value}) and {value} = trunc({value}) and abs({value}) < {LARGEST_EXACT}"
        return (
            f"case when isnan({value}) then null when {whole} then try_cast({value} as bigint)::varchar "
            f"else {value}::varchar end"
        )
    if kind.startswith("DECIMAL"):
        return f"regexp_replace({value}::varchar, '\\.0+$', '')"
    if kind == "BLOB":
        return f"coalesce(try(decode({value})), {value}::varchar)"
    return f"{value}::varchar"


def json_type(kind: str) -> str:
    """Return the type to read a JSON column as, so that no value is changed and none is refused."""
    if is_list(kind):
        return "VARCHAR[]"
    return "JSON" if kind == "JSON" else "VARCHAR"


def json_text(value: str, kind: str) -> str:
    """Return SQL of a column that was read as `json_type` of its type, as VARCHAR or VARCHAR[]."""
    if is_list(kind):
        return value
    if kind == "JSON":  # types are mixed: a string is told from a number by its quotes
        return (
            f"case json_type({value}) when 'VARCHAR' then {value} ->> '$' when 'DOUBLE' then "
            f"{_number(f'{value}::varchar')} else {value}::varchar end"
        )
    return _number(value) if kind == "DOUBLE" else value


def _number(text: str) -> str:
    return f"nullif(regexp_replace({text}, '^(-?\\d+)\\.0+$', '\\1'), 'NaN')"


def field_of(element: str, name: str, kind: str) -> str:
    """Return SQL of a field of an object given as JSON text."""
    path = "$." + '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    value = f"{element}::json ->> '{path.replace(chr(39), chr(39) * 2)}'"
    return _number(f"({value})") if kind.startswith(("DOUBLE", "FLOAT", "DECIMAL")) else value


def fields_of(kind: str) -> dict[str, str]:
    """Return {field: type} of a list of objects, {} for any other type."""
    found = re.fullmatch(r"STRUCT\((.*)\)\[\]", kind, re.DOTALL)
    if not found:
        return {}
    fields: dict[str, str] = {}
    for part in _top_level(found[1]):
        quoted = re.match(r'"((?:[^"]|"")*)" (.*)', part, re.DOTALL)
        name, _, rest = part.partition(" ")
        fields[quoted[1].replace('""', '"') if quoted else name] = quoted[2] if quoted else rest
    return fields


def _top_level(text: str) -> list[str]:
    """Split at commas outside of brackets and quotes."""
    parts, depth, quoted = [""], 0, False
    for character in text:
        quoted ^= character == '"'
        depth += 0 if quoted else (character in "([") - (character in ")]")
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
