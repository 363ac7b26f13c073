"""A model in memory as lm-evaluation-harness sees it.

Tokens, prefix, truncation and answers are those of the harness's own `hf` model (lm_eval.models.huggingface.HFLM), so
scores are the same. What differs is the work: requests of one item share a row, rows are sorted and batched by tokens,
and only scored positions reach the vocabulary. Log-probabilities are always taken in float32, also of bfloat16 logits.
"""

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix, resolve_max_length
from transformers import PreTrainedTokenizerFast

from grow.common.errors import ConfigError
from grow.evaluation.packing import Request, make_batches, pack
from grow.evaluation.parallel import deal
from grow.evaluation.scoring import Answer, Scorer

Progress = Callable[[int, int], None]
"""Called with the requests answered so far, and all of them."""


class HarnessModel(TemplateLM):
    """Answers the harness's log-likelihood requests.

    The harness believes in a single process: every rank is given all requests and returns all answers, and how the
    work is shared stays in here.

    Args:
        scorer: the model.
        tokenizer: its tokenizer.
        batch_tokens: places of a batch.
        progress: told how far it is.
    """

    def __init__(
        self, scorer: Scorer, tokenizer: PreTrainedTokenizerFast, *, batch_tokens: int, progress: Progress
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.max_length = resolve_max_length(scorer.model.config, tokenizer)
        self._scorer, self._batch_tokens, self._progress = scorer, batch_tokens, progress
        self._encoded: dict[str, list[int]] = {}
        self._items: list[tuple[str | None, int | None]] = []

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What an empty context is replaced by."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text. Unless told otherwise the tokenizer decides on special tokens, but never doubles a prefix."""
        if add_special_tokens is None and string in self._encoded:
            return self._encoded[string]
        if add_special_tokens is None and self._has_prefix(string):
            add_special_tokens = False
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer.encode(string, **special)

    def _has_prefix(self, string: str) -> bool:
        return has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation after its context, and whether it is the model's first choice."""
        self._items = [(request.task_name, request.doc_id) for request in requests]
        self._encode_at_once([request.args for request in requests])
        answers = super().loglikelihood(requests, disable_tqdm=True)
        self._encoded.clear()
        return answers

    def _encode_at_once(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Tokenize what `TemplateLM` will ask for, in one call of the tokenizer instead of thousands."""
        texts = {text for context, continuation in pairs if context for text in _texts(context, continuation)}
        plain = sorted(text for text in texts if not self._has_prefix(text))
        if plain:
            self._encoded = dict(zip(plain, self.tokenizer(plain)["input_ids"], strict=True))

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        cut = [self._cut(*request) for request in requests]
        batches = make_batches(pack(cut, self._items), self._batch_tokens)
        answers: dict[int, Answer] = {}
        self._progress(0, len(requests))
        for found in deal(batches, self._scorer.score):
            for part in found:
                answers.update(part)
            self._progress(len(answers), len(requests))
        return [(answers[index].logprob, answers[index].greedy) for index in range(len(requests))]

    def _cut(self, texts: tuple[str, str], context: list[int], continuation: list[int]) -> Request:
        """What is too long loses its beginning; the last token is predicted, not read."""
        if not 0 < len(continuation) <= self.max_length:
            raise ConfigError(
                f"evaluation.tasks: a continuation of {len(continuation)} tokens ({texts[1][:60]!r}) does not fit a "
                f"model of {self.max_length} positions. Leave the task out."
            )
        whole = (context + continuation)[-(self.max_length + 1) :]
        return Request(tuple(whole[:-1]), tuple(continuation))

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError("no task of grow.evaluation.catalogue asks for it; see grow.evaluation.heldout")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError("no task of grow.evaluation.catalogue asks for it")


def _texts(context: str, continuation: str) -> tuple[str, str]:
    """The two texts whose tokens `TemplateLM._encode_pair` compares; trailing spaces go to the continuation."""
    return context + continuation, context.rstrip()
