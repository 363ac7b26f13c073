"""Fetch Debian's documentation as English text: one JSON-lines file per package, for scripts/prepare_data.py.

    python -m studies.fetch_debian_docs                                      # the whole list into data/debian-docs
    python -m studies.fetch_debian_docs --packages manpages,sqlite3-doc      # some of it; NAME=FORMAT adds others
    python scripts/prepare_data.py input='[data/debian-docs/texts]' output=data/debian vocab_size=16384

Packages are downloaded with apt-get and read as archives: nothing is installed, nothing in them is run. A document is
kept when it is mostly English and ASCII and at least half of it is new; a paragraph is kept once, in the package that
was read first. Versions drift with Debian's point releases, so manifest.json records versions and digests.
"""

import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from grow.cli.closed_pipe import ends_with_its_reader
from grow.common.errors import DataError
from grow.common.provenance import write_json
from grow.common.records import read_json
from grow.common.temporary import replaced_file
from studies.markup import CONVERTERS

# name: (format, megabytes of text to expect), 225 MB in all. Many packages hold their text in two formats: one each.
PACKAGES = {
    "linux-doc-6.1": ("rst", 18.8),
    "ghc-doc": ("html", 23.8),
    "openjdk-17-doc": ("html", 22.2),
    "rust-doc": ("html", 12.2),
    "perl-doc": ("man", 10.5),
    "racket-doc": ("html", 11.3),
    "qtbase5-doc-html": ("html", 11.3),
    "erlang-doc": ("html", 10.0),
    "python3.11-doc": ("html", 9.8),
    "python-astropy-doc": ("html", 7.2),
    "wx3.2-doc": ("html", 7.2),
    "postgresql-doc-15": ("html", 6.3),
    "vim-doc": ("html", 6.5),
    "python-statsmodels-doc": ("html", 5.7),
    "python-django-doc": ("html", 5.6),
    "libboost1.81-doc": ("html", 5.5),
    "llvm-16-doc": ("html", 4.9),
    "cppreference-doc-en-html": ("html", 4.8),
    "sqlite3-doc": ("html", 4.9),
    "dpdk-doc": ("html", 4.7),
    "python-scipy-doc": ("html", 4.5),
    "python-sympy-doc": ("html", 4.5),
    "python-pandas-doc": ("html", 4.5),
    "twisted-doc": ("html", 4.5),
    "manpages-dev": ("man", 3.5),
    "manpages": ("man", 1.9),
    "libreoffice-help-en-us": ("html", 3.3),
    "git-doc": ("txt", 2.8),
    "debian-policy": ("txt", 0.7),
}
FILES = {
    "html": re.compile(r"\.x?html?(\.gz)?$"),
    "man": re.compile(r"/man/man\d/[^/]+\.\d\w*(\.gz)?$"),
    "rst": re.compile(r"\.rst(\.gz)?$"),
    "txt": re.compile(r"\.txt(\.gz)?$"),
}
NOT_TEXT = re.compile(r"/(_modules|_sources|_static|class-use|src|translations)/|index-all|genindex|modindex|search\.")
STOP_WORDS = re.compile(
    r"\b(the|of|and|to|a|in|is|that|it|for|as|with|be|on|are|this|by|or|an|if|not|from|can|at|which|you|will|has)\b"
)
LEAST_ENGLISH, LEAST_ASCII, LEAST_NEW, LEAST_CHARACTERS = 0.15, 0.95, 0.5, 200


@ends_with_its_reader()
def main() -> None:
    """Fetch what is missing; a mistake is one paragraph and an exit code."""
    options = read_options()
    try:
        fetch(options.packages, Path(options.output))
    except DataError as error:
        print(f"DataError: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on with the package it was at.", file=sys.stderr)
        sys.exit(130)


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", default=",".join(PACKAGES), help="comma-separated NAME or NAME=FORMAT")
    parser.add_argument("--output", default="data/debian-docs", help="gets texts/PACKAGE.jsonl and manifest.json")
    return parser.parse_args()


def fetch(packages: str, output: Path) -> None:
    """Bring a directory up to date: every package in the list, those that are there already left alone.

    Raises:
        DataError: there is no apt, a package is not to be had, or it cannot be read.
    """
    formats = dict(map(read_package, packages.split(",")))
    (output / "texts").mkdir(parents=True, exist_ok=True)
    manifest = intact(output)
    missing = [name for name in formats if name not in manifest]
    versions = find_versions(missing) if missing else {}
    seen = {digest for name in manifest for digest in paragraph_digests(text_file(output, name))}
    for number, name in enumerate(missing, start=1):
        print(f"[{number}/{len(missing)}] {name} {versions[name]} ... ", end="", flush=True)
        manifest[name] = fetch_package(name, versions[name], formats[name], seen, text_file(output, name))
        write_json(output / "manifest.json", manifest)
    characters = sum(manifest[name]["characters"] for name in formats)
    print(f"{output / 'texts'}: {len(formats)} packages, {characters / 1e6:,.1f} MB of text")


def read_package(named: str) -> tuple[str, str]:
    """Return name and format of NAME (of the list above) or NAME=FORMAT."""
    name, _, kind = named.strip().partition("=")
    kind = kind or PACKAGES.get(name, ("", 0))[0]
    if kind not in FILES:
        raise DataError(f"--packages: {named!r} is not in the list, so say what to read: {name}={'|'.join(FILES)}.")
    return name, kind


def intact(output: Path) -> dict[str, Any]:
    """Return the manifest's entries whose files are what it says; every other package is fetched again."""
    path = output / "manifest.json"
    entries = read_json(path) if path.exists() else {}
    return {name: entry for name, entry in entries.items() if digest(text_file(output, name)) == entry["sha256"]}


def text_file(output: Path, name: str) -> Path:
    """Return the file that a package's text is in."""
    return output / "texts" / f"{name}.jsonl"


def digest(path: Path) -> str | None:
    """Return the SHA-256 of a file, or None where there is none."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def paragraph_digests(path: Path) -> Iterator[bytes]:
    """Yield the digest of every paragraph of a package's text."""
    with path.open() as lines:
        for line in lines:
            yield from map(paragraph_digest, json.loads(line)["text"].split("\n\n"))


def paragraph_digest(paragraph: str) -> bytes:
    """Return a digest of a paragraph's words, in which white space does not count."""
    return hashlib.blake2b(" ".join(paragraph.split()).encode(), digest_size=8).digest()


def find_versions(names: list[str]) -> dict[str, str]:
    """Return the version of each package that apt would download.

    Raises:
        DataError: apt has none of some package.
    """
    found = dict(re.findall(r"^(\S+):\n.*\n  Candidate: (?!\(none\))(\S+)", run("apt-cache", "policy", *names), re.M))
    absent = [name for name in names if name not in found]
    if absent:
        there = ",".join(name for name in names if name in found) or "none"
        raise DataError(
            f"apt has no candidate for {', '.join(absent)}. Run apt-get update first; where another release of Debian "
            f"names them otherwise, choose with --packages. To be had of those asked for: {there}."
        )
    return found


def run(*command: str, cwd: Path | None = None) -> str:
    """Run one of Debian's tools, and return its standard output.

    Raises:
        DataError: there is no such tool, or it fails.
    """
    if shutil.which(command[0]) is None:
        raise DataError(f"{command[0]}: expected Debian's package tools, found none. Run this on Debian or Ubuntu.")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        reason = " ".join(re.findall(r"^E: (.*)", done.stderr, re.M)) or done.stderr.strip() or "no reason given"
        raise DataError(f"{' '.join(command)} failed: {reason}. Check the network, run apt-get update, try again.")
    return done.stdout


def fetch_package(name: str, version: str, kind: str, seen: set[bytes], path: Path) -> dict[str, Any]:
    """Download a package, write its text, and return its entry in the manifest."""
    start = time.perf_counter()
    documents = characters = 0
    with tempfile.TemporaryDirectory() as scratch:
        run("apt-get", "download", "-qq", f"{name}={version}", cwd=Path(scratch))
        archive = next(Path(scratch).glob("*.deb"))
        with replaced_file(path) as lines:
            for member, text in new_documents(read_archive(archive, kind), seen):
                lines.write(json.dumps({"id": f"{name}/{member}", "text": text, "source": name}) + "\n")
                documents, characters = documents + 1, characters + len(text)
            if not documents:
                raise DataError(f"{name}: expected English {kind} in this package, found none. Leave it out.")
    seconds = time.perf_counter() - start
    print(f"{documents:,} documents, {characters / 1e6:.1f} MB of text from {kind} in {seconds:.0f} s", flush=True)
    entry = {"version": version, "format": kind, "documents": documents, "characters": characters}
    return {**entry, "sha256": digest(path)}


def read_archive(archive: Path, kind: str) -> Iterator[tuple[str, str]]:
    """Yield name and plain text of a package's documents, read from its archive as it streams by."""
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as unpack:
        assert unpack.stdout is not None
        try:
            with tarfile.open(fileobj=unpack.stdout, mode="r|") as members:
                for member in members:
                    if member.isfile() and FILES[kind].search(member.name) and not NOT_TEXT.search(member.name):
                        yield member.name.removeprefix("./usr/share/"), CONVERTERS[kind](decoded(members, member))
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataError(f"{archive.name}: cannot be read: {error}. Run the same command again.") from None


def decoded(members: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    """Return the text of a file of an archive, unpacked if need be."""
    file = members.extractfile(member)
    assert file is not None
    content = file.read()
    if member.name.endswith(".gz"):
        content = gzip.decompress(content)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def new_documents(documents: Iterable[tuple[str, str]], seen: set[bytes]) -> Iterator[tuple[str, str]]:
    """Yield English documents that are mostly new, without the paragraphs that are not; `seen` gains what is kept."""
    for name, text in documents:
        paragraphs = {paragraph_digest(part): part.strip("\n") for part in re.split(r"\n\s*\n", text) if part.strip()}
        fresh = {digest: part for digest, part in paragraphs.items() if digest not in seen}
        kept = "\n\n".join(fresh.values())
        if len(kept) >= LEAST_NEW * sum(map(len, paragraphs.values())) and is_english(kept):
            seen.update(fresh)
            yield name, kept


def is_english(text: str) -> bool:
    """Return whether a text is English, by the share of stop words and of ASCII; too short a text is not."""
    words = re.findall(r"[a-z]+", text.lower())
    enough = len(text) >= LEAST_CHARACTERS and len(text.encode("ascii", "ignore")) >= LEAST_ASCII * len(text)
    return enough and len(STOP_WORDS.findall(text.lower())) >= LEAST_ENGLISH * len(words)


if __name__ == "__main__":
    main()
