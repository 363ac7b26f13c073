#!/usr/bin/env bash
# The LAWA papers' claims in miniature, on real text: six runs of a minute or two on one CPU core, a page and a table.
#
#     scripts/lawa_text.sh            # outputs/lawa/text/{rates,decay,ema}/report.html; docs/lawa_in_miniature.md reads them
#
# rates  LAWA beside the live weights at 1, 3 and 10 times the learning rate, held constant.
# decay  the same window while the rate decays (cosine, and a cool-down of the last fifth), against the constant rate.
# ema    the exponential average of the same mean age as the window, on the same weights.
#
# A run that is done is not repeated. OUT, LR (1x), and OVERRIDES can be set in the environment.
set -euo pipefail
: "${OUT:=outputs/lawa/text}" "${LR:=4e-3}" "${OVERRIDES:=}"

# RUN_DIRECTORY EXPERIMENT TIMES OVERRIDE...
train() {
    local run=$OUT/$1 experiment=$2 lr
    lr=$(awk -v lr="$LR" -v times="$3" 'BEGIN { printf "%g", lr * times }')
    shift 3
    # shellcheck disable=SC2086 # OVERRIDES is a list of words
    set -- experiment="lawa/$experiment" optimizer.lr="$lr" "$@" $OVERRIDES run_dir="$run"
    printf '\n$ python train.py %s\n' "$*"
    python train.py "$@"
}

# PAGE RUN...
report() {
    local page=$1 run runs=
    shift
    for run in "$@"; do runs="$runs,$OUT/$run"; done
    printf '\n$ python scripts/report.py runs="[%s]" output=%s\n' "${runs#,}" "$OUT/$page"
    python scripts/report.py runs="[${runs#,}]" output="$OUT/$page"
}

# Validation loss of the live weights and of the average, halfway and at the end of each run
table() {
    printf '\n| run | tokens | live | average | live - average |\n| --- | --- | --- | --- | --- |\n'
    local run
    for run in "$OUT"/*-*x; do
        grep -h '"val_avg/loss"' "$run/metrics.jsonl" | tr -d '{},"' | awk -v run="${run##*/}" '
            { for (i = 1; i < NF; i++) value[$i] = $(i + 1)
              tokens[NR] = value["tokens:"]; live[NR] = value["val/loss:"]; average[NR] = value["val_avg/loss:"] }
            END { for (row = 1; row <= NR; row++) if (row == NR || 2 * tokens[row] == tokens[NR])
                printf "| %s | %d | %.4f | %.4f | %+.4f |\n", run, tokens[row], live[row], average[row], live[row] - average[row] }'
    done
}

train constant-1x constant 1
train constant-3x constant 3
train constant-10x constant 10
train cosine-10x cosine 10
train cooled-10x cooled 10
train ema-10x ema 10

report rates constant-1x constant-3x constant-10x
report decay constant-10x cosine-10x cooled-10x
report ema constant-10x ema-10x
table
