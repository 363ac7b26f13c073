"""The shell commands of the README, the pages, the job scripts and the configurations' headers, as one pastes them."""

import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from grow.common.places import CONFIG_DIR

ROOT = CONFIG_DIR.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
JOB_SCRIPTS = sorted((ROOT / "slurm").glob("*.sbatch"))
HEADED = [*JOB_SCRIPTS, *sorted((ROOT / "configs").rglob("*.yaml"))]
"""Files whose comments name commands."""
_STARTS = re.compile(r"(\w+=\S+ )*(python|torchrun|sbatch|make|pip|source|studies/\S+|grow) ?")
_IN_A_COMMENT = re.compile(
    r"(?:torchrun --nproc_per_node=\w+|python|sbatch) [\w/]+\.(?:py|sbatch)"
    r"(?: --cfg job| -m| outputs/\S+| [\w./+]+=\S+)*"
)
"""A program, then flags, paths and overrides up to the first word of the sentence that goes on."""
_OF_A_JOB = re.compile(r"^#SBATCH --(?:nodes|ntasks-per-node)=(\d+)", re.M)
_OF_A_PROGRAM = re.compile(r"(?:--nproc_per_node=|--processes |strategy\.devices=)(\d+|N)")
_FENCE = re.compile(r"^```(\w*)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One command of a page: variables set before it, the program, and its arguments."""

    page: str
    variables: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """The command in one line."""
        return " ".join([*self.variables, *self.words])

    @property
    def program(self) -> str:
        """The file it runs, without its folder, or the first word: train.py, report.py, make."""
        python = self.words[0] in ("python", "torchrun")
        named = [word for word in self.words if word.endswith(".py")] if python else []
        return Path(named[0]).name if named else self.words[0]

    @property
    def arguments(self) -> list[str]:
        """What follows the program."""
        names = [Path(word).name for word in self.words]
        return list(self.words[names.index(Path(self.program).name) + 1 :])

    @property
    def processes(self) -> int:
        """Ranks that it starts; those of the GPUs that it is estimated for."""
        if self.words[0] == "sbatch":
            return math.prod(map(int, _OF_A_JOB.findall((ROOT / self.words[1]).read_text())))
        if "hydra/launcher=slurm" in self.words:
            launcher = OmegaConf.load(CONFIG_DIR / "hydra" / "launcher" / "slurm.yaml")
            return int(launcher.nodes * launcher.tasks_per_node)
        named = _OF_A_PROGRAM.search(self.text)
        return 1 if named is None else int(named[1].replace("N", "2"))


def commands_of(page: Path) -> list[Command]:
    """Return the commands of a page, from fenced shell blocks, indented blocks and the last column of tables."""
    found, text = [], "\n".join(_shell_lines(page.read_text())).replace("\\\n", " ")
    for line in filter(_STARTS.match, map(str.strip, text.splitlines())):
        words = shlex.split(line, comments=True)
        while "&&" in words:
            found.append(_command(page, words[: words.index("&&")]))
            words = words[words.index("&&") + 1 :]
        found.append(_command(page, words))
    return found


def commands_in_comments(file: Path) -> list[Command]:
    """Return the commands that a file's comments name."""
    lines = [line[1:].strip() for line in file.read_text().splitlines() if re.match(r"#(?!SBATCH|!)", line)]
    found = _IN_A_COMMENT.findall(" ".join(lines))
    return [_command(file, shlex.split(text.rstrip(".,;`"))) for text in found]


def _command(page: Path, words: list[str]) -> Command:
    variables = tuple(word for word in words if re.match(r"^[A-Z_]+=", word))
    return Command(page=page.name, variables=variables, words=tuple(words[len(variables) :]))


def _shell_lines(text: str) -> list[str]:
    lines, language = [], None
    for line in text.splitlines():
        if fence := _FENCE.match(line):
            language = (fence[1] or "none") if language is None else None
        elif language == "bash" or (language is None and line.startswith("    ")):
            lines.append(line)
        elif language is None and line.startswith("|"):
            lines += re.findall(r"`((?:make|python|studies/)[^`]*)`", line.split("|")[-2])
    return lines
