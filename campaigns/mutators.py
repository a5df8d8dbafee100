"""Ways in which files are damaged: bytes, the values of JSON, TOML, CSV and XML, tags of TIFF, pickles with code."""

import json
import math
import os
import pickle
import random
import re
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Mutator = Callable[[random.Random, bytes], bytes]

_NUMBERS = (0, 1, -1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 10**9)
_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, math.nan, math.inf, -math.inf, 0.1, "", "x", "é\u2028",
    "../../x", "/dev/zero", "pipe", "a" * 5000, [], [[]], {}, {"x": 1}, [1, 2, 3], ["a"], [None], [1e400],
)  # fmt: skip


def bytes_of_any(random: random.Random, data: bytes) -> bytes:
    """Flip, cut, repeat, zero or overwrite bytes."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 5, 20))):
        if not changed:
            break
        # the beginning of a file, where its header is, more often than the rest
        most = len(changed) if random.random() < 0.5 else min(len(changed), 512)
        at, length = random.randrange(most), random.choice((1, 2, 4, 8, 64, 1000))
        way = random.randrange(7)
        if way == 0:
            changed[at] ^= 1 << random.randrange(8)
        elif way == 1:
            del changed[at : at + length]
        elif way == 2:
            changed[at:at] = changed[at : at + length]
        elif way == 3:
            changed[at : at + length] = bytes(len(changed[at : at + length]))
        elif way == 4:
            changed[at : at + length] = random.randbytes(length)
        elif way == 5:
            size, order = random.choice((2, 4, 8)), random.choice(("little", "big"))
            value = random.choice(_NUMBERS) % 256**size
            changed[at : at + size] = value.to_bytes(size, order)  # type: ignore[arg-type]
        else:
            del changed[at if random.random() < 0.5 else random.randrange(len(changed)) :]
    return bytes(changed)


def json_values(random: random.Random, data: bytes) -> bytes:
    """Put something odd into one or two places of a JSON document, or nest it deeply."""
    try:
        tree = json.loads(data)
    except ValueError:
        return bytes_of_any(random, data)
    for _ in range(random.choice((1, 1, 2))):
        tree = _changed(random, tree)
    text = json.dumps(tree)
    if random.random() < 0.05:
        text = text.replace("null", "[" * 100_000 + "]" * 100_000, 1) if "null" in text else "[" * 100_000
    return text.encode(errors="surrogatepass")


def _changed(random: random.Random, tree: Any) -> Any:
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in inner:
            places.append((node, key))
            walk(value)

    walk(tree)
    if not places or random.random() < 0.03:
        return random.choice(_ODD)
    node, key = random.choice(places)
    way = random.randrange(6)
    if way == 0 and isinstance(node, dict):
        del node[key]
    elif way == 1 and isinstance(node, dict):
        node[f"{key}x"] = node.pop(key)
    elif way == 2 and isinstance(node[key], int | float):
        node[key] = node[key] * random.choice((-1, 0, 10, 1e6, 1e30, 0.5))
    elif way == 3 and isinstance(node[key], list):
        node[key] = node[key] * 2 if random.random() < 0.5 else node[key][:-1]
    else:
        node[key] = random.choice(_ODD)
    return tree


def toml_values(random: random.Random, data: bytes) -> bytes:
    """Change values, keys or lines of a TOML document."""
    lines = data.decode().splitlines()
    places = [n for n, line in enumerate(lines) if "=" in line] or [0]
    n = random.choice(places)
    key, _, value = lines[n].partition("=")
    odd = random.choice(
        ("0", "-1", "1", "100000000", "9223372036854775808", "nan", "inf", "1e308", '""', '"x"', "[]", "{}", "true",
         "[1,2]", "1979-05-27", '"/dev/zero"', "[" * 2000, "'''", f"{value} {value}", f"{value}0000000", "0.5")
    )  # fmt: skip
    way = random.randrange(5)
    if way == 0:
        lines[n] = f"{key}x = {value}"
    elif way == 1:
        lines.insert(n, lines[n])
    elif way == 2:
        return bytes_of_any(random, data)
    else:
        lines[n] = f"{key} = {odd}"
    return "\n".join(lines).encode()


def csv_fields(random: random.Random, data: bytes) -> bytes:
    """Change a field, a line or the header of a CSV."""
    rows = [line.split(",") for line in data.decode(errors="replace").splitlines()]
    row = random.choice(rows)
    odd = (
        "",
        "nan",
        "inf",
        "-1",
        "1e999",
        "../..",
        "/dev/zero",
        '"',
        '"a\nb"',
        "a" * 200_000,
        "\0",
        "é",
        "0",
        "pipe",
        ".",
    )
    way = random.randrange(5)
    if way == 0:
        row[random.randrange(len(row))] = random.choice(odd)
    elif way == 1:
        row.append(random.choice(odd))
    elif way == 2:
        row.pop()
    elif way == 3:
        rows.insert(random.randrange(len(rows) + 1), list(row))
    else:
        return bytes_of_any(random, data)
    return "\n".join(",".join(fields) for fields in rows).encode(errors="surrogateescape")


def safetensors_header(random: random.Random, data: bytes) -> bytes:
    """Change the JSON header of a safetensors file, the words in it that are JSON themselves, or its length."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    way = random.randrange(5)
    if way == 0:
        return struct.pack("<Q", random.choice((0, 1, 2**31, 2**40, 2**63, length + 1, length - 1))) + data[8:]
    if way == 1:
        header = json.loads(json_values(random, json.dumps(header).encode()) if random.random() < 0.9 else b"[]")
    else:
        words = header.get("__metadata__", {})
        for key in words:
            words[key] = json_values(random, words[key].encode()).decode(errors="replace")
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tiff_tags(random: random.Random, data: bytes) -> bytes:
    """Change type, count or value of tags, or where a directory leads to."""
    if data[:2] not in (b"II", b"MM"):
        return bytes_of_any(random, data)
    changed, order = bytearray(data), "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    place, number, entry_bytes, entry = ("Q", "Q", 20, "HHQQ") if big else ("I", "H", 12, "HHII")
    directories, at = [], struct.unpack_from(f"{order}{place}", data, 8 if big else 4)[0]
    while 0 < at < len(data) and len(directories) < 20:
        count = struct.unpack_from(f"{order}{number}", data, at)[0]
        first = at + struct.calcsize(number)
        directories.append((at, first, count))
        at = struct.unpack_from(f"{order}{place}", data, first + count * entry_bytes)[0]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        at, first, count = random.choice(directories)
        where = first + random.randrange(count) * entry_bytes
        tag, kind, values, value = struct.unpack_from(f"{order}{entry}", data, where)
        limit = 2**64 if big else 2**32
        way = random.randrange(8)
        if way == 0:
            kind = random.choice((0, 1, 2, 3, 4, 5, 12, 13, 16, 99))
        elif way == 1:
            values = random.choice((*_NUMBERS, values + 1, values - 1)) % limit
        elif way in (2, 3, 4):
            value = random.choice((*_NUMBERS, value + 1, value - 1, value * 2, len(data))) % limit
        elif way == 5:
            tag = random.choice((0, 254, 256, 257, 258, 259, 262, 270, 277, 278, 322, 323, 324, 325, 330, 347, 65535))
        elif way == 6:
            following = random.choice((at, 8, len(data) - 4, directories[0][0], 2**31))
            struct.pack_into(f"{order}{place}", changed, first + count * entry_bytes, following)
            continue
        else:
            struct.pack_into(f"{order}{number}", changed, at, random.choice((0, 1, count - 1, count + 1, 65535)))
            continue
        struct.pack_into(f"{order}{entry}", changed, where, tag, kind, values, value)
    return bytes(changed)


def ome_xml(random: random.Random, data: bytes) -> bytes:
    """Change an attribute of the OME-XML of a slide of restain's, or put something into it; it is appended anew."""
    (at,) = struct.unpack_from("<Q", data, 8)
    entries = range(at + 8, at + 8 + 20 * struct.unpack_from("<Q", data, at)[0], 20)
    entry = next(place for place in entries if struct.unpack_from("<H", data, place)[0] == 270)
    count, start = struct.unpack_from("<QQ", data, entry + 4)
    xml = data[start : start + count].rstrip(b"\0").decode(errors="replace")
    found = list(re.finditer(r'(\w+)="([^"]*)"', xml))
    way = random.randrange(6)
    if way < 4 and found:
        match = random.choice(found)
        odd = (
            "0",
            "-1",
            "999999999",
            "1e400",
            "nan",
            "",
            "pipe",
            "/dev/zero",
            "XYZCT",
            "a" * 10_000,
            "uint64",
            "0.0001",
        )
        xml = f"{xml[: match.start(2)]}{random.choice(odd)}{xml[match.end(2) :]}"
    elif way == 4:
        doctype = (
            '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
            + "".join(
                f'<!ENTITY a{n} "{"&a" + (str(n - 1) if n else "") + ";"}' * 1
                + f'{("&a" + (str(n - 1) if n else "") + ";") * 9}">'
                for n in range(9)
            )
            + "]>"
        )
        xml = f"{doctype}{xml.replace('virtual', '&a8;', 1)}"
    else:
        xml = xml.replace("<Image", random.choice(("<Image><Image", "<Plate/><Image", "<TiffData IFD='5'/><Image")), 1)
    new = xml.encode() + b"\0"
    changed = bytearray(data)
    struct.pack_into("<QQ", changed, entry + 4, len(new), len(changed))
    return bytes(changed) + new


def png_chunks(random: random.Random, data: bytes) -> bytes:
    """Change the contents of a chunk and make its checksum right again, drop it, or repeat it."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return bytes_of_any(random, data)
    chunks, at = [], 8
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    n, way = random.randrange(len(chunks)), random.randrange(4)
    name, body = chunks[n]
    if way == 0:
        chunks.pop(n)
    elif way == 1:
        chunks.insert(n, chunks[n])
    elif way == 2 and name == b"IHDR":
        sides = [random.choice((0, 1, 96, 2**16, 2**31 - 1)) for _ in range(2)]
        chunks[n] = name, struct.pack(">II", *sides) + bytes(random.choice((x, 0, 3, 16)) for x in body[8:])
    else:
        chunks[n] = name, bytes_of_any(random, body)
    whole = (struct.pack(">I", len(b)) + name + b + struct.pack(">I", zlib.crc32(name + b)) for name, b in chunks)
    return data[:8] + b"".join(whole)


MARK = Path(tempfile.gettempdir()) / f"restain-payload-{os.getpid()}"
"""What code in a pickle makes, if it runs."""


class _Payload:
    """Pickles as a call that makes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(MARK), "w")


def pickle_with_code(random: random.Random, data: bytes) -> bytes:
    """A pickle that would make the file `MARK` if it ran: alone, or in the archive that PyTorch writes."""
    import io
    import zipfile

    code = pickle.dumps({"model": _Payload(), "weight": 1}, protocol=random.choice((0, 2, 4)))
    if random.random() < 0.4 or not zipfile.is_zipfile(io.BytesIO(data)):
        return code
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, code if name.endswith("data.pkl") else old.read(name))
    return out.getvalue()
