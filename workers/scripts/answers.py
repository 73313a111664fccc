"""The script `check_answers`: every quote of the researchers, compared with the file it names."""

from collections.abc import Mapping

from pydantic import Field, JsonValue, ValidationError

from chargehand.memory.text_files import lines_of, text_of
from chargehand.workers.findings import Answer, CheckedAnswer, Frozen, Quote
from chargehand.workers.scripts.base_tree import TreeFile, list_files, read_blobs
from chargehand.workers.scripts.registry import ScriptContext, Workspace, script

ANSWER_FIELDS = frozenset(Answer.model_fields)


class CheckedAnswers(Frozen):
    """The answers with what the check found; nothing a model says about its quotes is believed."""

    answers: tuple[CheckedAnswer, ...]
    unreadable: dict[str, str] = Field(default_factory=dict)
    """Step key → why its result is no answer."""


@script(name="check_answers")
def check_answers(context: ScriptContext) -> CheckedAnswers:
    """The predecessors' answers, each quote verified byte for byte at the base commit."""
    answers, unreadable = read_answers(context.inputs)
    files = QuotedFiles(context.open_workspace()) if any(answer.quotes for answer in answers) else None
    return CheckedAnswers(answers=tuple(check(answer, files) for answer in answers), unreadable=unreadable)


class QuotedFiles:
    """The files of the base commit by their shown path, each read once."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._files: dict[str, list[TreeFile]] = {}
        for file in list_files(workspace):
            # Two names may be shown alike; then a quote from either counts.
            self._files.setdefault(file.path, []).append(file)
        self._lines: dict[str, list[list[str]]] = {}

    def holds(self, quote: Quote) -> bool:
        """Whether the file has exactly this text from exactly this line on; a newline at its end is forgiven."""
        text = quote.text.removesuffix("\n")
        if not text.strip() or quote.line < 1:
            return False
        quoted = text.split("\n")
        begin = quote.line - 1
        return any(lines[begin : begin + len(quoted)] == quoted for lines in self._read(quote.path))

    def _read(self, path: str) -> list[list[str]]:
        if path not in self._lines:
            contents = read_blobs(self._workspace, self._files.get(path, []))
            texts = [text_of(content) for content in contents]
            self._lines[path] = [lines_of(text) for text in texts if text is not None]
        return self._lines[path]


def read_answers(inputs: Mapping[str, JsonValue]) -> tuple[list[Answer], dict[str, str]]:
    """The answers among the results, in the order of the steps' keys, and why others are none."""
    answers, unreadable = [], {}
    for key, result in sorted(inputs.items()):
        if not isinstance(result, dict) or "question" not in result:
            unreadable[key] = "no answer in the result" if result is not None else "no result"
            continue
        try:
            answers.append(Answer.model_validate({name: result[name] for name in ANSWER_FIELDS & result.keys()}))
        except ValidationError as error:
            problem = error.errors()[0]
            unreadable[key] = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return answers, unreadable


def check(answer: Answer, files: QuotedFiles | None) -> CheckedAnswer:
    """The answer with the number of quotes that hold and the places of those that do not."""
    refuted = tuple(f"{quote.path}:{quote.line}" for quote in answer.quotes if files is None or not files.holds(quote))
    return CheckedAnswer(answer=answer, quotes_verified=len(answer.quotes) - len(refuted), quotes_refuted=refuted)
