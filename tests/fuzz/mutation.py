"""Faults of a file, drawn at random: of its bytes, and of what a text or a table says."""

import json
import random
import re
import zlib
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, -(2**63), 10**30, 10**400, 1.5, -0.5),
    *(1e300, 1e308, float("inf"), float("nan"), [], {}, [[]] * 3, {"": {}}, [None], [-1], [1e308]),
    *("", "x", "x" * 5000, "../../etc/passwd", "/etc/passwd", "a\nb", "\0", "\x1b[31m", "\u202e"),
    *("\ud800", "1/0", "1e999999999", "-3", "NaN", "null", "2026-99-99", "ü" * 300, "%s%n", "~"),
)
_NUMBERS = (b"-1", b"0", b"1e400", b"NaN", b"Infinity", b"9" * 30, b"9" * 5000, b"0x10", b"1_0")
_TEXTS = (b"[" * 3000, b"{" * 3000, b"- " * 3000, b'"', b"&a *a", b"!!python/name:os.system", b"<")


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes of a file with a few faults of one kind."""
    mutant = bytearray(data)
    kind = rng.choice(["bits", "zeros", "cut", "numbers", "splice", "header"])
    count = rng.choice([1, 3, 20])
    if kind == "cut" or len(data) < 8:
        return data[: rng.randrange(len(data) + 1)]
    if kind == "splice":
        start, end = sorted(rng.randrange(len(data)) for _ in range(2))
        place = rng.randrange(len(data))
        return data[:place] + data[start:end] + data[place:]
    for _ in range(count):
        most = min(len(data), 4096) if kind == "header" else len(data)
        place = rng.randrange(most)
        if kind in ("bits", "header"):
            mutant[place] ^= 1 << rng.randrange(8)
        elif kind == "zeros":
            end = min(len(data), place + rng.randrange(1, len(data) // 3 + 2))
            mutant[place:end] = bytes(end - place)
        else:
            number = rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, rng.randrange(2**32)])
            mutant[place : place + 4] = number.to_bytes(4, rng.choice(["big", "little"]))
    return bytes(mutant[: len(data)])


def mutate_file(name: str, data: bytes, rng: random.Random) -> bytes:
    """Return a mutant of a file; most often one whose form is still that of its kind."""
    suffix = name.rpartition(".")[2]
    by_form = {
        "json": _mutate_json,
        "lock": _mutate_json,
        "jsonl": _mutate_lines,
        "parquet": _mutate_parquet,
        "safetensors": _mutate_safetensors,
        "png": _mutate_png,
        "http": _mutate_answer,
        **dict.fromkeys(("toml", "yaml", "xml", "txt"), _mutate_text),
    }.get(suffix)
    if by_form is None or rng.random() < 0.3:
        return mutate_bytes(data, rng)
    return by_form(data, rng)


def mutate_document(document: Any, rng: random.Random) -> Any:
    """Return a JSON document with one to three values replaced, removed, renamed or repeated."""
    document = json.loads(json.dumps(document))
    for _ in range(rng.choice([1, 1, 2, 3])):
        places = list(_places(document))
        if not places:
            return rng.choice(ODD_VALUES)
        parent, key = rng.choice(places)
        what = rng.choice(["replace"] * 5 + ["remove", "rename", "repeat"])
        if what == "replace":
            parent[key] = rng.choice(ODD_VALUES)
        elif what == "remove":
            del parent[key]
        elif isinstance(parent, dict):
            parent[rng.choice(["", "x", "../x", "__class__", f"{key}s"])] = parent[key]
        else:
            parent.insert(rng.randrange(len(parent)), parent[key])
    return document


def _places(document: Any) -> Any:
    if isinstance(document, dict | list):
        keys = list(document) if isinstance(document, dict) else range(len(document))
        for key in keys:
            yield document, key
            yield from _places(document[key])


def _mutate_json(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.1:
        return rng.choice(
            [b"[" * 100_000, b'{"a":' * 50_000, b"null", b"[]", b'"x"', b"0", b"\xff"]
        )
    return _dumped(mutate_document(json.loads(data), rng))


def _dumped(document: Any) -> bytes:
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _mutate_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    number = rng.randrange(len(lines))
    lines[number] = _mutate_json(lines[number], rng) + b"\n"
    return b"".join(lines)


def _mutate_text(data: bytes, rng: random.Random) -> bytes:
    """Replace a word or a number, repeat or remove a line."""
    for _ in range(rng.choice([1, 2, 4])):
        words = list(re.finditer(rb"[\w.+-]+|[^\w\s]", data))
        if not words:
            break
        word = rng.choice(words)
        odd = str(rng.choice(ODD_VALUES)).encode("utf-8", "surrogatepass")
        by = rng.choice([rng.choice(_NUMBERS), rng.choice(_TEXTS), odd, b"", word[0] * 2])
        data = data[: word.start()] + by + data[word.end() :]
    if rng.random() < 0.2:
        lines = data.splitlines(keepends=True)
        data = b"".join([*lines, rng.choice(lines)]) if lines else data
    return data


def _mutate_parquet(data: bytes, rng: random.Random) -> bytes:
    """Drop, rename, repeat or retype a column, or give some rows odd values; then write it anew."""
    table = pq.read_table(BytesIO(data))
    number = rng.randrange(table.num_columns)
    name, column = table.column_names[number], table.column(number)
    what = rng.choice(["drop", "rename", "retype", "null", "odd", "rows", "none", "order"])
    if what == "drop":
        table = table.remove_column(number)
    elif what == "rename":
        names = [*table.column_names]
        names[number] = rng.choice(["x", "", table.column_names[0]])
        table = table.rename_columns(names)
    elif what == "rows":
        table = table.slice(rng.randrange(table.num_rows + 1))
    elif what == "none":
        table = table.schema.empty_table()
    elif what == "order":
        table = table.take(pa.array(rng.sample(range(table.num_rows), table.num_rows)))
    else:
        values = column.to_pylist()
        if what == "retype":
            values = [rng.choice(["0", 0.0, False, [0]])] * len(values)
            column = pa.array(values)
        else:
            odd = [None] if what == "null" else _odd_of(column.type)
            for _ in range(rng.choice([1, 3, len(values)]) if values else 0):
                values[rng.randrange(len(values))] = rng.choice(odd)
            column = pa.array(values, column.type)
        table = table.set_column(number, name, column)
    out = BytesIO()
    pq.write_table(table.replace_schema_metadata(table.schema.metadata), out)
    return out.getvalue()


def _odd_of(kind: pa.DataType) -> list[Any]:
    if pa.types.is_boolean(kind):
        return [True, False]
    if pa.types.is_integer(kind):
        most = 2 ** (kind.bit_width - 1)
        return [-1, 0, 1, most - 1, -most]
    if pa.types.is_floating(kind):
        return [float("nan"), float("inf"), -1.0, 1e30, -float("inf")]
    if pa.types.is_string(kind):
        return ["", "x", "../x", "x" * 10_000, "\0", "\x1b[31m"]
    return [None]


def _mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    end = 8 + int.from_bytes(data[:8], "little")
    header = _dumped(mutate_document(json.loads(data[8:end]), rng))
    return len(header).to_bytes(8, "little") + header + data[end:]


def _mutate_png(data: bytes, rng: random.Random) -> bytes:
    """Change the image's header (sides, bits, kind), its checksum as it should be."""
    header = bytearray(data[12:29])
    place = rng.randrange(4, 17)
    header[place] = rng.choice([0, 1, 2, 4, 16, 127, 255])
    return data[:12] + bytes(header) + zlib.crc32(header).to_bytes(4, "big") + data[33:]


def _mutate_answer(data: bytes, rng: random.Random) -> bytes:
    """Change status and headers of an HTTP answer, or say less or more of its body."""
    head, end, body = data.partition(b"\r\n\r\n")
    if rng.random() < 0.3:
        body = rng.choice(
            [body[: len(body) // 2], body + bytes(2**20), b"", mutate_bytes(body, rng)]
        )
    if rng.random() < 0.2:
        head += b"\r\n" + rng.choice(
            [
                *(
                    b"Content-Encoding: gzip",
                    b"Transfer-Encoding: chunked",
                    b"Retry-After: 9999999",
                ),
                *(b"Location: file:///etc/passwd", b"X: " + b"y" * 100_000, b"Content-Length: 5"),
                *(b"Content-Range: bytes 5-1/x", b"Content-Type: text/html", b"Set-Cookie: \xff"),
            ]
        )
    return _mutate_text(head, rng) + end + body
