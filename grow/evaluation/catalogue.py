"""The tasks that Grow knows: each task's file in lm-evaluation-harness, and the origin of its items.

Revisions are commits of the data sets on the Hugging Face hub. LogiQA and LogiQA 2 exist there only as loading scripts,
which `datasets` no longer runs; those scripts read the authors' repositories, and so does Grow, at pinned commits.
"""

from dataclasses import dataclass

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class HubItems:
    """A data set on the Hugging Face hub, at one commit."""

    path: str
    name: str | None
    revision: str
    splits: tuple[str, ...]

    @property
    def origin(self) -> str:
        """Where the items come from, as the manifest records it."""
        return f"{self.path}@{self.revision}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RawItems:
    """Text files of a repository, at one commit."""

    url: str
    """Address of a file, with {file} in place of its name."""
    reader: str
    """Name of the function in `grow.evaluation.fetch.READERS` that reads the files."""
    files: dict[str, tuple[str, str]]
    """Split -> file and its SHA-256."""

    @property
    def origin(self) -> str:
        """Where the items come from, as the manifest records it."""
        return self.url


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One task: the harness's file that defines it, and its items."""

    stock: str
    """The harness's own task file, relative to its `tasks` folder."""
    source: HubItems | RawItems
    items: tuple[str, int]
    """The split that is scored and its number of items, which fetched items are checked against."""


def _hub(path: str, name: str | None, revision: str, *splits: str) -> HubItems:
    return HubItems(path=path, name=name, revision=revision, splits=splits)


_ARC = ("allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453")
_SUPER_GLUE = ("aps/super_glue", "3de24cf8022e94f4ee4b9d55a6f539891524d646")
_LOGIQA = RawItems(
    url="https://raw.githubusercontent.com/lgw863/LogiQA-dataset/ff6c4cbca47627b3ac2da94a29fa28204a167b41/{file}",
    reader="logiqa",
    files={
        "validation": ("Eval.txt", "4c49e6753b7262c001506b9151135abf722247035ab075dad93acdea5789c01f"),
        "test": ("Test.txt", "359acb78c37802208f7fde9e2f6574b8526527c63d6a336f90a53f1932cb4701"),
    },
)
_LOGIQA2 = RawItems(
    url="https://raw.githubusercontent.com/csitfun/LogiQA2.0/955e1d3df6c59d9bfb44d9913da1e1a27ec14e18"
    "/logiqa/DATA/LOGIQA/{file}",
    reader="logiqa2",
    files={
        "validation": ("dev.txt", "bbefb563b7ddc02640ccdc314c1315d5727dba48539d0ecdd126fa351e511b09"),
        "test": ("test.txt", "71940b37ae0184b677c253a148d57ad4e75d6113447b1563c2ca82483e4e4f8d"),
    },
)

TASKS = {
    "arc_easy": Task(
        stock="arc/arc_easy.yaml", source=_hub(_ARC[0], "ARC-Easy", _ARC[1], *SPLITS), items=("test", 2376)
    ),
    "arc_challenge": Task(
        stock="arc/arc_challenge.yaml", source=_hub(_ARC[0], "ARC-Challenge", _ARC[1], *SPLITS), items=("test", 1172)
    ),
    "hellaswag": Task(
        stock="hellaswag/hellaswag.yaml",
        source=_hub("Rowan/hellaswag", None, "218ec52e09a7e7462a5400043bb9a69a41d06b76", "train", "validation"),
        items=("validation", 10042),
    ),
    "lambada_openai": Task(
        stock="lambada/lambada_openai.yaml",
        source=_hub("EleutherAI/lambada_openai", "default", "900124bf3b8235c6daf21033af9948b3f07346c4", "test"),
        items=("test", 5153),
    ),
    "piqa": Task(
        stock="piqa/piqa.yaml",
        source=_hub("baber/piqa", None, "142f6d7367fd9877f0fb3b5734ea6a545f54cdd1", "train", "validation"),
        items=("validation", 1838),
    ),
    "winogrande": Task(
        stock="winogrande/default.yaml",
        source=_hub(
            "allenai/winogrande", "winogrande_xl", "01e74176c63542e6b0bcb004dcdea22d94fb67b5", "train", "validation"
        ),
        items=("validation", 1267),
    ),
    "sciq": Task(
        stock="sciq/sciq.yaml",
        source=_hub("allenai/sciq", None, "2c94ad3e1aafab77146f384e23536f97a4849815", *SPLITS),
        items=("test", 1000),
    ),
    "logiqa": Task(stock="logiqa/logiqa.yaml", source=_LOGIQA, items=("test", 651)),
    "logiqa2": Task(stock="logiqa2/logiqa2.yaml", source=_LOGIQA2, items=("test", 1572)),
    "openbookqa": Task(
        stock="openbookqa/openbookqa.yaml",
        source=_hub("allenai/openbookqa", "main", "388097ea7776314e93a529163e0fea805b8a6454", *SPLITS),
        items=("test", 500),
    ),
    "boolq": Task(
        stock="super_glue/boolq/default.yaml",
        source=_hub(_SUPER_GLUE[0], "boolq", _SUPER_GLUE[1], "train", "validation"),
        items=("validation", 3270),
    ),
    "copa": Task(
        stock="super_glue/copa/default.yaml",
        source=_hub(_SUPER_GLUE[0], "copa", _SUPER_GLUE[1], "train", "validation"),
        items=("validation", 100),
    ),
}
"""HyperCloning's ten tasks (arXiv 2409.12903, figure 4), and two more: boolq and copa."""
