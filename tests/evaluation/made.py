"""Made-up test data: items of every task, a tokenizer of their words, and tiny models of every family."""

import random
from pathlib import Path

import torch
from transformers import GPTNeoXConfig, LlamaConfig, Olmo2Config, OlmoConfig, OPTConfig, PreTrainedConfig

from grow.data.tokenizer import save_tokenizer, train_tokenizer
from grow.evaluation.data import EvaluationData, write_items
from grow.families.build import model_from_noise
from tests.data.conftest import make_sentences, prepare_files_small, write_json_lines

VOCABULARY, POSITIONS = 300, 96
_SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_SIZES |= {"max_position_embeddings": POSITIONS}
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_SIZES, intermediate_size=24),
    "llama_grouped_tied": LlamaConfig(**_SIZES, intermediate_size=24, num_key_value_heads=1, tie_word_embeddings=True),
    "gpt_neox": GPTNeoXConfig(**_SIZES, intermediate_size=24, rotary_pct=0.5),
    "olmo": OlmoConfig(**_SIZES, intermediate_size=24, pad_token_id=None),
    "olmo2": Olmo2Config(**_SIZES, intermediate_size=24, pad_token_id=None),
    "opt": OPTConfig(**_SIZES, ffn_dim=24, word_embed_proj_dim=16, dropout=0.1),
    "opt_350m_layout": OPTConfig(**_SIZES, ffn_dim=24, word_embed_proj_dim=8, do_layer_norm_before=False, dropout=0.1),
}


def make_model(family: str):
    """Build a random model whose weights are large enough that contexts matter."""
    model = model_from_noise(FAMILIES[family], seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    return model


def make_tokenizer(directory: Path | None = None):
    """Train a byte-level tokenizer on the made-up words."""
    tokenizer = train_tokenizer(make_sentences(200, seed=0), VOCABULARY)
    if directory is not None:
        save_tokenizer(tokenizer, directory)
    return tokenizer


def make_items(directory: Path, count: int = 5) -> EvaluationData:
    """Write `count` items of every task with the fields of real ones; the last is too long for the tiny models."""
    draw = random.Random(0)
    words = " ".join(make_sentences(20, seed=0)).split()

    def some(low: int, high: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(low, high)))

    def choices(number: int = 4) -> list[str]:
        return [some(1, 5) for _ in range(number)]

    def item(task: str, index: int) -> dict:
        long = some(60, 70) if index == count - 1 else some(4, 12)
        options, gold = choices(), draw.randrange(4)
        if task in ("arc_easy", "arc_challenge", "openbookqa"):
            field = "question_stem" if task == "openbookqa" else "question"
            letters = {"text": options, "label": list("ABCD")}
            return {"id": str(index), field: long, "choices": letters, "answerKey": "ABCD"[gold]}
        if task == "hellaswag":
            return {"activity_label": "x", "ctx_a": long, "ctx_b": some(1, 2), "endings": options, "label": str(gold)}
        if task == "lambada_openai":
            return {"text": f"{long} {draw.choice(words)}"}
        if task == "piqa":
            return {"goal": long, "sol1": options[0], "sol2": options[1], "label": gold % 2}
        if task == "winogrande":
            sentence = f"{long} _ {some(2, 5)}."
            return {"sentence": sentence, "option1": words[0], "option2": words[1], "answer": str(1 + gold % 2)}
        if task == "sciq":
            answers = dict(zip(("distractor1", "distractor2", "distractor3", "correct_answer"), options, strict=True))
            return {"question": some(3, 6), "support": long, **answers}
        if task == "logiqa":
            return {"context": long, "question": some(3, 6), "options": options, "label": "abcd"[gold]}
        if task == "logiqa2":
            return {"text": long, "question": some(3, 6), "options": options, "answer": gold}
        if task == "boolq":
            return {"passage": long, "question": some(3, 6), "label": gold % 2}
        assert task == "copa"
        clauses = {"choice1": options[0].capitalize(), "choice2": options[1].capitalize()}
        return {"premise": long.capitalize() + ".", **clauses, "question": "cause", "label": gold % 2}

    from grow.evaluation.catalogue import TASKS

    found = {task: ("made up", {TASKS[task].items[0]: [item(task, index) for index in range(count)]}) for task in TASKS}
    return write_items(directory, found, "made up")


def make_place(directory: Path) -> Path:
    """Write items/ of every task, and shards/ of two sources in the same words to train on."""
    make_tokenizer(directory / "tokenizer")
    make_items(directory / "items")
    first = write_json_lines(directory / "first.jsonl", make_sentences(200, seed=3))
    second = write_json_lines(directory / "second.jsonl", make_sentences(200, seed=4), source="web")
    prepare_files_small(directory / "shards", first, second, tokenizer=str(directory / "tokenizer"), vocab_size=None)
    return directory


def evaluating(place: Path, tasks: tuple[str, ...], every_tokens: int) -> list[str]:
    """Return the overrides with which a run evaluates the tasks of `make_place`."""
    return [
        *("evaluation=heldout", f"evaluation.tasks=[{','.join(tasks)}]", f"evaluation.data_dir={place / 'items'}"),
        f"evaluation.every_tokens={every_tokens}",
    ]
