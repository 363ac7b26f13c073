"""Where a bigger model begins to pay: a ladder of sizes from noise on real English, loss against FLOPs.

    python -m studies.frontier                # hours on two CPU cores; a run that is a row already is not repeated
    python -m studies.frontier --minutes 60   # begins nothing new after an hour

Growth can only pay where a bigger model beats a smaller one at equal FLOPs. So this comes first: every size is trained
for several budgets, each run annealed to its own (warm-up, stable, decay), with a learning rate tuned for its size. The
vocabulary has 1,024 pieces, so that the tables of the embedding do not dominate the bodies. A finished run is a row of
docs/frontier.csv.
"""

import argparse
import csv
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from benchmarks.forks import import_everything, start_ranks, wait
from grow.cli.closed_pipe import ends_with_its_reader
from grow.common.errors import DataError
from grow.common.temporary import replaced_file

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "frontier.csv"
OUTPUT = ROOT / "outputs" / "frontier"
DATA = ROOT / "data" / "english-1024"
VOCABULARY = 1024
SEEDS = (0, 1, 2)
TUNING_SEED = 100
TUNING_TOKENS = 1_000_000
RATES = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
BUDGETS = (1_000_000, 2_000_000, 4_000_000, 8_000_000)
"""Tokens of a run: the longest sees the corpus at most twice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """One size of the ladder: a Llama with a tied head, four query heads for each pair of key-value heads."""

    layers: int
    embed: int
    heads: int
    ffn: int

    @property
    def name(self) -> str:
        return f"{self.layers}x{self.embed}"

    @property
    def overrides(self) -> list[str]:
        """What makes this size of model=tiny."""
        sizes = {"layers": self.layers, "embed": self.embed, "heads": self.heads, "kv_heads": self.heads // 2}
        sizes |= {"head_dim": self.embed // self.heads, "ffn": self.ffn, "max_positions": 128}
        return ["model=tiny", "model.tied_head=true", f"model.vocab_size={VOCABULARY}"] + [
            f"model.{key}={value}" for key, value in sizes.items()
        ]


LADDER = (
    Size(layers=4, embed=32, heads=2, ffn=88),
    Size(layers=4, embed=48, heads=2, ffn=128),
    Size(layers=4, embed=64, heads=4, ffn=176),
    Size(layers=4, embed=96, heads=4, ffn=264),
    Size(layers=5, embed=128, heads=4, ffn=352),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """One finished run, which is one row of the table."""

    size: str
    tokens: int
    lr: float
    seed: int
    flops: int
    loss: float


@ends_with_its_reader()
def main() -> None:
    """Tune every size, then train every size for every budget and seed, until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after so long")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    import_everything()
    prepare_data()
    for _ in runs(read_table(TABLE)):
        if time.monotonic() > until:
            break


def read_table(table: Path) -> list[Trained]:
    """Read the runs that were finished; none where there is no table yet."""
    if not table.exists():
        return []
    kinds = {field.name: field.type for field in fields(Trained)}
    with table.open(newline="") as file:
        return [Trained(**{key: kinds[key](value) for key, value in row.items()}) for row in csv.DictReader(file)]


def write_table(table: Path, rows: list[Trained]) -> None:
    """Write the runs in the order of size, budget, rate and seed."""
    order = [size.name for size in LADDER]
    rows = sorted(rows, key=lambda row: (order.index(row.size), row.tokens, row.lr, row.seed))
    with replaced_file(table) as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Trained)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def prepare_data() -> None:
    """Tokenize the embedded corpus with a vocabulary of its own size, once."""
    from grow.data.check import RAW_DIR
    from grow.data.manifest import MANIFEST_FILE
    from grow.preparation.corpus import prepare_english

    if not (DATA / MANIFEST_FILE).exists():
        prepare_english(DATA, RAW_DIR, vocab_size=VOCABULARY)


def runs(rows: list[Trained]) -> Iterator[Trained]:
    """Train what is missing, write each row down as it is finished, and yield it."""
    rates = {}
    for size in LADDER:
        while (lr := next_rate(rows, size)) is not None:
            yield _train(rows, size, TUNING_TOKENS, lr, TUNING_SEED)
        rates[size.name] = best_rate(rows, size)
    for seed in SEEDS:
        for tokens in BUDGETS:
            for size in LADDER:
                if not any((row.size, row.tokens, row.seed) == (size.name, tokens, seed) for row in rows):
                    yield _train(rows, size, tokens, rates[size.name], seed)


def best_rate(rows: list[Trained], size: Size) -> float:
    """Return the learning rate with the lowest loss among those tried for a size; at least one was."""
    return min(_tuned(rows, size), key=lambda row: row.loss).lr


def next_rate(rows: list[Trained], size: Size) -> float | None:
    """Return the next learning rate to try for a size, or None where the best has been tried on both sides.

    The grid is walked from its middle towards lower losses. Its ends are final.
    """
    tried = {row.lr for row in _tuned(rows, size)}
    if not tried:
        return RATES[len(RATES) // 2]
    best = RATES.index(best_rate(rows, size))
    beside = [RATES[i] for i in (best - 1, best + 1) if 0 <= i < len(RATES)]
    return next((lr for lr in beside if lr not in tried), None)


def _tuned(rows: list[Trained], size: Size) -> list[Trained]:
    """Return a size's runs for its learning rate."""
    return [row for row in rows if row.size == size.name and row.seed == TUNING_SEED]


def _train(rows: list[Trained], size: Size, tokens: int, lr: float, seed: int) -> Trained:
    """Train one model from noise, or go on with it, and add its row to the table.

    Raises:
        DataError: the run ended with an error; its log says which.
    """
    run = OUTPUT / f"{size.name}-{tokens}-{lr:g}-seed{seed}"
    run.parent.mkdir(parents=True, exist_ok=True)
    log = run.with_name(f"{run.name}.log")
    if wait(start_ranks(1, [*_overrides(size, tokens, lr, seed), f"run_dir={run}"], log)) != [0]:
        raise DataError(f"{run}: the run ended with an error; {log} has what it said.")
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if '"val/loss"' in line][-1]
    row = Trained(size=size.name, tokens=tokens, lr=lr, seed=seed, flops=last["flops"], loss=round(last["val/loss"], 5))
    rows.append(row)
    write_table(TABLE, rows)
    print(f"{row.size}: {row.tokens:,} tokens at {row.lr:g}, seed {row.seed}: loss {row.loss:.4f}", flush=True)
    return row


def _overrides(size: Size, tokens: int, lr: float, seed: int) -> list[str]:
    """Return the command line of one run, without its directory."""
    return [
        *("growth=none", "data=shards", f"data.path={DATA}", "data.sequence_length=128", "schedule=wsd"),
        *size.overrides,
        *(f"optimizer.lr={lr}", f"seed={seed}", f"trainer.max_tokens={tokens}", "schedule.warmup_fraction=0.05"),
        *("trainer.tokens_per_step=2048", "trainer.micro_batch=16", "trainer.accelerator=cpu", "trainer.threads=1"),
        *(f"trainer.val_every_tokens={max(BUDGETS)}", "trainer.val_tokens=131072", "trainer.log_every_steps=200"),
        *("checkpoint.every_fraction=0.25", "checkpoint.keep_last=1"),
    ]


if __name__ == "__main__":
    main()
