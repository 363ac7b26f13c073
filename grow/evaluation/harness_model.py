"""The adapter through which lm-evaluation-harness scores a model in memory.

Tokens, prefix, truncation and answers are those of the harness's own `hf` model (lm_eval.models.huggingface.HFLM), so
scores are the same. The computation is cheaper: requests of one item share a row, rows are sorted and batched by
tokens, and only scored positions are projected onto the vocabulary. Log-probabilities are always computed in float32,
also from bfloat16 logits.
"""

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix, resolve_max_length
from transformers import PreTrainedTokenizerFast

from grow.common.errors import ConfigError
from grow.evaluation.packing import Request, make_batches, pack
from grow.evaluation.parallel import distribute
from grow.evaluation.scoring import Answer, Scorer

Progress = Callable[[int, int], None]
"""Called with the number of requests answered so far and the number of all."""


class HarnessModel(TemplateLM):
    """Answers the harness's log-likelihood requests.

    The harness does not know of other processes: it hands all requests to every rank and gets all answers from every
    rank. This class shares the computation among the ranks.

    Args:
        scorer: The model.
        tokenizer: Tokenizer of the model.
        batch_tokens: Largest number of tokens in a batch, padding included.
        progress: Called as requests are answered.
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
        """Id of the end of text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """Id that stands in for an empty context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the ids of a text; `TemplateLM` calls this.

        Args:
            string: Text to encode.
            add_special_tokens: None leaves it to the tokenizer, except that a prefix in the text is not doubled.
            kwargs: Ignored.
        """
        if add_special_tokens is None and string in self._encoded:
            return self._encoded[string]
        if add_special_tokens is None and self._has_prefix(string):
            add_special_tokens = False
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer.encode(string, **special)

    def _has_prefix(self, string: str) -> bool:
        return has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return each continuation's log-likelihood (nats) after its context, and whether it is the greedy one.

        The harness calls this with all requests of a task.
        """
        self._items = [(request.task_name, request.doc_id) for request in requests]
        self._encode_at_once([request.args for request in requests])
        answers = super().loglikelihood(requests, disable_tqdm=True)
        self._encoded.clear()
        return answers

    def _encode_at_once(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Tokenize all texts that `TemplateLM` will encode, in one call of the tokenizer instead of thousands."""
        texts = {text for context, continuation in pairs if context for text in _texts(context, continuation)}
        plain = sorted(text for text in texts if not self._has_prefix(text))
        if plain:
            self._encoded = dict(zip(plain, self.tokenizer(plain)["input_ids"], strict=True))

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        truncated = [self._truncate(*request) for request in requests]
        batches = make_batches(pack(truncated, self._items), self._batch_tokens)
        answers: dict[int, Answer] = {}
        self._progress(0, len(requests))
        for answered in distribute(batches, self._scorer.score):
            for part in answered:
                answers.update(part)
            self._progress(len(answers), len(requests))
        return [(answers[index].logprob, answers[index].greedy) for index in range(len(requests))]

    def _truncate(self, texts: tuple[str, str], context: list[int], continuation: list[int]) -> Request:
        """Return a request that fits the model: a long one loses its beginning, and the last token is no input."""
        if not 0 < len(continuation) <= self.max_length:
            raise ConfigError(
                f"evaluation.tasks: a continuation of {len(continuation)} tokens ({texts[1][:60]!r}) does not fit a "
                f"model of {self.max_length} positions. Leave the task out."
            )
        whole = (context + continuation)[-(self.max_length + 1) :]
        return Request(tuple(whole[:-1]), tuple(continuation))

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Refuse: the harness calls this only for tasks that Grow does not have."""
        raise NotImplementedError("no task of grow.evaluation.catalogue needs it; see grow.evaluation.heldout")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Refuse: the harness calls this only for tasks that Grow does not have."""
        raise NotImplementedError("no task of grow.evaluation.catalogue needs it")


def _texts(context: str, continuation: str) -> tuple[str, str]:
    """Return the two texts that `TemplateLM._encode_pair` encodes; it moves trailing spaces to the continuation."""
    return context + continuation, context.rstrip()
