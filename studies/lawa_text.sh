#!/usr/bin/env bash
# The LAWA papers' claims in miniature, on real text: eight runs of minutes on one CPU core, pages and two tables.
#
#     studies/lawa_text.sh            # outputs/lawa/text/{rates,decay,ema,spike}/report.html; docs/lawa_in_miniature.md reads them
#
# rates  LAWA and the live weights at 1, 3 and 10 times the learning rate, held constant.
# decay  the same window while the rate decays (cosine, and a cool-down of the last fifth), against the constant rate.
# ema    the exponential average of the same mean age as the window, on the same weights.
# spike  one batch of random ids, and the same run without it.
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

# Both runs with and without the damaged batch, after each snapshot from the last before it on
spike_table() {
    printf '\n| step | live, undamaged | damaged | apart | average, undamaged | damaged | apart |\n'
    printf '| --- | --- | --- | --- | --- | --- | --- |\n'
    cat "$OUT"/{undamaged,damaged}/metrics.jsonl | grep '"val_avg/loss"' | tr -d '{},"' | awk '
        { for (i = 1; i < NF; i++) value[$i] = $(i + 1)
          step = value["step:"]; damaged = step in live; now = value["val/loss:"]; mean = value["val_avg/loss:"]
          if (damaged && step >= 300 && step <= 380 && step % 10 == 0)
              printf "| %d | %.4f | %.4f | %+.4f | %.4f | %.4f | %+.4f |\n",
                  step, live[step], now, now - live[step], average[step], mean, mean - average[step]
          live[step] = now; average[step] = mean }'
}

train constant-1x constant 1
train constant-3x constant 3
train constant-10x constant 10
train cosine-10x cosine 10
train cooled-10x cooled 10
train ema-10x ema 10
train damaged damaged 10
train undamaged damaged 10 data.damaged_tokens=null

report rates constant-1x constant-3x constant-10x
report decay constant-10x cosine-10x cooled-10x
report ema constant-10x ema-10x
report spike undamaged damaged
table
spike_table
