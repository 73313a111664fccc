"""How a result sounds: a failure, nothing there, a success, or something else; pure."""

import re
from typing import Literal

from chargehand.orchestrator.likeness import HEAD_CHARACTERS, parts

# Where it says how it went.
END_CHARACTERS = 200
# An acknowledgement is short; a text that merely contains "done" is none.
SHORT_WORDS = 12
SHORT_CHARACTERS = 2_000

Tone = Literal["failure", "nothing", "success", "plain"]

_TRANSIENT = re.compile(
    r"\b(?:429|502|503|504)\b|too many requests|rate.?limit|unavailable|overload|time.?d?.?out|temporar|try again"
    r"|retry(?:ing)? (?:after|in|later)|please retry|\blater\b|\bbusy\b|database is locked|locked by|throttl|slow down"
    r"|quota|\b(?:held|owned|locked|in use) by\b"
    r"|econnre|connection (?:reset|refused|aborted|error|failed|closed)|reset by peer|unreachable|network"
    r"|not (?:yet )?(?:ready|finished|completed?|available|started)|\byet\b|in progress|still \w+ing|\bpending\b",
    re.IGNORECASE,
)
_NO_ENTRY = re.compile(r"\b(?:401|403|access|permi(?:ssion|tted)|forbidden|unauthori[sz]ed|denied|not allowed)\b", re.I)
# What was asked for is not there: perhaps it is called something else.
_NOT_THERE = re.compile(
    r"\bno such\b|\bnot found\b|\bno (?:file|module|\w+ named)\b|\b(?:not|n['’]t) exist|\bunknown\b|\b404\b"
    r"|\bundefined\b"
    r"|\b(?:cannot|could not|can['’]t|unable to) (?:find|locate)\b|\bno (?:\w+ )?match",
    re.IGNORECASE,
)
# The way back to how it was before a try.
_UNDOES = re.compile(r"\b(?:checkout|restore|revert|reset|undo|roll(?:ed)?[ _-]?back|discard|stash)\b", re.IGNORECASE)
_NO_FAILURE = re.compile(
    r"\bno_?errors?\b|\b(?:0|no|zero|without)\s+(?:\w+\s+)?(?:fail\w*|errors?|exceptions?)"
    # Named, and not there: `"error": null`, `failed=0`.
    r"|\b\w*(?:fail\w*|errors?|exceptions?|reject\w*|invalid|denied|refused|blocked)\w*[\"']?\s?[:=]\s?(?:null|none|false|0\b|\"\"|''|\[\]|\{\})",
    re.IGNORECASE,
)
_FAILURE = re.compile(
    r"\b(?:fail(?:ed|s|ures?)?|errors?|\w*exception|\w+error|traceback|fatal|denied|refused|cannot|could not|unable"
    r"|forbidden|unauthori[sz]ed|aborted|panicked|segmentation fault|core dumped|timed out|\w+backoff|command not found"
    r"|no such (?:file|table|column|host|key|user|command)|not permitted|undefined reference"
    r"|exit(?:ed)? (?:code|status|with) [1-9]"
    # In the languages of other users.
    r"|fehler\w*|fehlgeschlagen|verweigert|erreur|échec|échoué|refusée?|denegad[oa]|errore|fallid[oa]|fallo)\b",
    re.IGNORECASE,
)
# What a cell shows whose formula cannot be computed.
_BAD_CELL = re.compile(r"(?:[\w!.$:]+\s*[=:]\s*)?#(?:REF!|NAME\?|VALUE!|DIV/0!|N/A|NUM!|NULL!|ERROR!)")
# In a few words; a text that merely has one of these is about something else.
_SHORT_FAILURE = re.compile(
    r"\b(?:captcha|(?:verify|prove|confirm) (?:that )?you are (?:a )?human"
    r"|(?:log|sign) ?in to (?:continue|view)|session (?:has )?expired"
    r"|nack|nak|reject(?:ed|s|ion)?|invalid|blocked|runaway|must (?:be|not|have)|(?:is|are) required"
    r"|not (?:an? )?(?:allowed|permitted|supported|confirmed|valid)|expected|enter an? valid)\b",
    re.IGNORECASE,
)
# What stands before a page instead of it, in whatever words.
_WALL = re.compile(
    r"\b(?:verify|prove|confirm)(?:ing)? (?:that )?you are (?:a )?(?:human|not a robot)|\bchecking your browser\b"
    r"|\bunusual traffic\b|\benable javascript and cookies\b|\b(?:log|sign) ?in to (?:continue|view|read)\b"
    r"|\bsubscribe to (?:continue|read)\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\W{0,3}(?:(?:an )?error\b|fatal:|traceback \(|exception\b|\w+(?:error|exception)\b|permission denied"
    r"|access denied|failed to\b|cannot\b|could not\b|unable to\b|invalid (?:arg|input|param))",
    re.IGNORECASE,
)
_INNER_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])|_")
_NOTHING = re.compile(
    r"^(?:\[\]|\{\}|null|none|nil)$"
    r"|\bno (?:\w+ )?(?:results?|match(?:es)?|rows?|records?|items?|entries|hits?|documents?|messages?|output|data)\b"
    r"|\bno (?:changes?|effect|progress|difference)\b|\bunchanged\b|\balready\b"
    r"|\b(?:could|did|can|do|does|was|were)(?:n['’]?t| ?not) (?:be )?(?:find|found|know|locate[d]?)\b"
    r"|\bunknown\b|\bno (?:\w+ )?(?:information|answer)\b|\bno \w+(?: \w+)? (?:is|was) known\b|\bnot know[n]?\b"
    r"|\bnothing\b(?! (?:but|except|other than)\b)|\bnot found\b|\b0 (?:results?|rows?|hits?|matches)\b"
    r"|\"\w+\": ?\[\](?:, ?\"\w+\": ?0)?"
    # In the languages of other users.
    r"|\bkeine? (?:\w+ )?(?:ergebnisse?|treffer|eintr[äa]ge?|daten)\b|\bnichts gefunden\b|\bnicht gefunden\b"
    r"|\baucune?s? \w+|\bintrouvable\b|\brien trouvé\b|\b(?:sin|ningún|nenhum) resultados?\b|\bnessun risultato\b"
    r"|\bno se (?:encontr|hall)\w+|\bnão encontrad\w+|\bnon trovat\w+|\bgeen (?:resultaten|treffers)\b"
    r"|\bniet gevonden\b",
    re.IGNORECASE,
)
_DONE = (
    r"(?:ok|okay|done|true|yes|success\w*|succeeded|completed?|finished|saved|wrote|written|created|updated|added"
    r"|appended|inserted|deleted|removed|edited|replaced?|replacements?|changed|modified|applied|patched|moved|renamed"
    r"|copied|sent|posted|published|closed|opened|set|stored|installed|uploaded|committed|merged|pushed|clicked|typed"
    r"|pressed|selected|submitted|accepted|assigned|transferred|forwarded|attached|scheduled|started|stopped(?!:)"
    r"|restarted|granted|registered|queued (?:as|for|with|under)|delivered|received|enqueued|logged"
    r"|recorded|noted|acknowledged|pass(?:ed|ing)?|healthy|clean|up|green|valid|ready)"
)
_SUCCESS = re.compile(rf"\b{_DONE}\b", re.IGNORECASE)
# What should have been done was not, whatever is said beside it.
_NOT_DONE = re.compile(rf"\b{_DONE}[\"']?\s?[:=]\s?[\"']?(?:false|0(?!\.)|no(?!\s+[a-z]))\b", re.IGNORECASE)
# Named, and not so: `"accepted": false`.
_NO_SUCCESS = re.compile(
    r"\b(?:0|no|none) (?:\w+ )?(?:done|passed|completed?|finished|ready|updated|changed|created)\b"
    r"|\b\w+[\"']?\s?[:=]\s?[\"']?(?:false|no(?!\s+[a-z])|none|null)\b"
    # That something is so is no deed, unless it is called one.
    rf"|\b(?!{_DONE}\b)\w+[\"']\s?:\s?true\b",
    re.IGNORECASE,
)
# An acknowledgement that goes on with good advice.
_LONG_SUCCESS = re.compile(r"\b(?:has|have) been \w+|\bsuccessful(?:ly)?\b", re.IGNORECASE)
# How a run of tests or a build ends, however much it says.
_ALL_PASSED = re.compile(
    r"\b[1-9]\d* (?:\w+ )?pass(?:ed|ing)\b|\btest result: ok\b|\bbuild success|\ball (?:\w+ ){1,2}pass(?:ed)?\b"
    r"|\bok \([1-9]\d* tests?\b|\btests run: [1-9]",
    re.IGNORECASE,
)
# What was done to one thing, as many tools say it of whatever they do.
_HAS_BEEN = re.compile(
    r"(?!.*\b(?:is|are|was|still|not|remains?|stays?)\b)[^:=|\s]+(?: [^:=|\s]+){0,4} [a-z]+ed[.!]?", re.IGNORECASE
)
_ANSWERED = re.compile(r"\"(?:status|success|ok)\"\s*:\s*(?:\"(?:success|ok)\"|true)", re.IGNORECASE)
_DATA = re.compile(r"\"(?:data|results?|items|rows|records|hits|values?)\"\s*:\s*[\[{]", re.IGNORECASE)
# What is seen, whatever is selected or open in it.
_VIEW = re.compile(r"\W{0,3}(?:screen ?shot|snapshot|screen|window|page|view)\b\W*[:=]", re.IGNORECASE)
_AT_WORK = re.compile(
    r"running|in.?progress|building|compiling|training|processing|working|loading|copying|migrating|deploying|pending"
    r"|rendering|syncing|queued|waiting|heartbeat|remaining",
    re.IGNORECASE,
)
# By its tool's name, or the program that a command begins with, whatever folder it goes to first.
_SEARCHES = re.compile(
    r"^(?:\w*[-_.])?(?:search|find|grep|glob|lookup|recall|recherche\w*|such\w*|busca|buscar|cerca|zoek|query|list)(?:[-_.]\w+)?\n"
    r"|\n(?:cd \S+ (?:&& |; ))?(?:sudo )?(?:e?grep|rg|ag|ack|find|fd|locate|which|whereis|ls"
    r"|git (?:grep|log|branch|tag))\b"
    r"(?!.*(?:-delete|-exec|[^2]>))",
    re.IGNORECASE,
)
# A list of what there is may be asked for again and again, as a poll is.
_LOOKS_UP = re.compile(
    r"^(?:\w*[-_.])?(?:search|find|grep|glob|lookup|recall|recherche\w*|such\w*|busca|buscar|cerca|zoek)(?:[-_.]\w+)?\n"
    r"|\n(?:cd \S+ (?:&& |; ))?(?:sudo )?(?:e?grep|rg|ag|ack|find|fd|locate|git grep)\b(?!.*(?:-delete|-exec|[^2]>))",
    re.IGNORECASE,
)
# By its tool's name, or by the first words of a command.
_SETS = re.compile(
    r"(?:^|[\W_])(?:set|put|toggle|switch|turn|assign|move|add|remove|enable|disable|start|stop|up|down|open|close"
    r"|lock|unlock|write|update|apply|revert|reverse|post|scale|mount|unmount|umount|attach|detach|publish|unpublish"
    r"|archive|unarchive|pin|unpin|install|uninstall|create|delete|rename|connect|disconnect|grant|revoke|approve|reject"
    r"|stash|transfer)(?:$|[\W_])",
    re.IGNORECASE,
)
SETTING_WORDS = 4
# What people say when there is nothing more to say.
_COURTESY = re.compile(
    r"\b(?:thank(?:s| ?you)?|welcome|pleasure|glad|happy (?:to|with)|appreciat\w+|kind(?:ness| words)"
    r"|no (?:problem|worries)|any ?time|likewise|you too|same to you|well done|good (?:job|work|luck|bye)"
    r"|great (?:job|work\w*|talking|collaborat\w+|news)|goodbye|bye|take care|cheers|looking forward"
    r"|(?:have a|good) (?:\w+ )?(?:day|evening|night|week\w*|one)|sounds (?:good|great)|excellent|wonderful|perfect"
    r"|fantastic|awesome|danke|gern\w*|merci|de rien|gracias|de nada|obrigad[oa]|grazie|prego)\b",
    re.IGNORECASE,
)
# A longer one says something beside, and so does one with a number, a name of a file, or a question.
COURTESY_WORDS = 14
_CONTENT = re.compile(r"\d|[\w-]+[./_:]\w|\?|`")
_WAITS = re.compile(r"(?:^|[\W_])(?:sleep|wait|delay|pause|backoff)(?:$|[\W_])", re.IGNORECASE)
# Beside a wait, what says that it is over.
_NEXT_COMMAND = re.compile(r"\s*(?:;|&&|\|\||\||\n)\s*")
_SAYS_SO = re.compile(r"(?:sleep|echo|printf|date|true|wait|:)?(?:\s|$)")


def tone(text: str) -> Tone:
    """Whether an answer tells of a failure, of nothing there, of success, or of something else."""
    if _FAILURE.search(_NO_FAILURE.sub("", _ends(text))) or _WALL.search(text[:END_CHARACTERS]):
        return "failure"
    said = text.strip()
    if _BAD_CELL.fullmatch(said):
        return "failure"
    if not said:
        return "success"
    beginning = said[:SHORT_CHARACTERS].split(maxsplit=SHORT_WORDS)
    is_short = len(beginning) <= SHORT_WORDS and len(said) <= SHORT_CHARACTERS
    if is_short and _SHORT_FAILURE.search(_NO_FAILURE.sub("", said)):
        return "failure"
    if not is_short:
        if _LONG_SUCCESS.search(" ".join(beginning[:SHORT_WORDS])):
            return "success"
        return "success" if _ALL_PASSED.search(_ends(said)) else "plain"
    if _NOTHING.search(said):
        return "nothing"
    if _NO_FAILURE.search(said):
        return "success"
    if _HAS_BEEN.fullmatch(said):
        return "success"
    if _VIEW.match(said):
        return "plain"
    if _NOT_DONE.search(said):
        return "plain"
    # That the question was answered is no deed.
    said = _ANSWERED.sub("", said) if _DATA.search(said) else said
    return "success" if _SUCCESS.search(_INNER_CAPITAL.sub(" ", _NO_SUCCESS.sub("", said))) else "plain"


def is_refusal(text: str) -> bool:
    """Whether an answer that is called a success begins like an error."""
    return _REFUSAL.match(text) is not None


def is_transient(text: str) -> bool:
    """Whether an error asks to come again."""
    return _TRANSIENT.search(_ends(text)) is not None


def is_search(asked: str) -> bool:
    """Whether a call looks for something, so that no answer is an answer."""
    return _SEARCHES.search(asked[:HEAD_CHARACTERS]) is not None


def looks_up(asked: str) -> bool:
    """Whether a call searches for something."""
    return _LOOKS_UP.search(asked[:HEAD_CHARACTERS]) is not None


def sets_something(asked: str) -> bool:
    """Whether a call changes how things stand, by its tool's name or the first words of a command."""
    tool, _, told = asked.partition("\n")
    if _SETS.search(_INNER_CAPITAL.sub(" ", tool)):
        return True
    beginning = told.split(maxsplit=SETTING_WORDS)[:SETTING_WORDS]
    return len(beginning) > 1 and _SETS.search(" ".join(beginning)) is not None


def is_courtesy(text: str) -> bool:
    """Whether a message is thanks, good wishes or praise, and nothing more."""
    return (
        len(text.split(maxsplit=COURTESY_WORDS)) <= COURTESY_WORDS
        and _CONTENT.search(text) is None
        and _COURTESY.search(text) is not None
    )


def is_at_work(text: str) -> bool:
    """Whether an answer says that something is being done."""
    return _AT_WORK.search(_ends(text)) is not None


def is_no_entry(text: str) -> bool:
    """Whether a failure is about who asks, so that the next object may be open to them."""
    return _NO_ENTRY.search(_ends(text)) is not None


def says_there_is_none(text: str) -> bool:
    """Whether a failure says that there is no such thing, so that the next try may be a guess at its name."""
    return _NOT_THERE.search(_ends(text)) is not None


def undoes(asked: str) -> bool:
    """Whether a call takes back what was done before it."""
    return _UNDOES.search(_INNER_CAPITAL.sub(" ", asked[:HEAD_CHARACTERS])) is not None


def lets_time_pass(tool: str, told: str, answer: str) -> bool:
    """Whether a call did nothing but wait: by its tool's name, or by a command that does nothing beside."""
    if len(answer.split(maxsplit=SHORT_WORDS // 2)) > SHORT_WORDS // 2 or tone(answer) == "failure":
        return False
    if _WAITS.search(tool):
        return True
    commands = _NEXT_COMMAND.split(told[:HEAD_CHARACTERS])
    return _WAITS.search(told[:HEAD_CHARACTERS]) is not None and (
        len(commands) == 1 or all(_SAYS_SO.match(command) for command in commands)
    )


def _ends(text: str) -> str:
    # What stands in the middle of a long text is what the text is about.
    head, _, tail = parts(text, END_CHARACTERS, END_CHARACTERS)
    return f"{head}{tail}" if len(text) <= 2 * END_CHARACTERS else f"{head}\n{tail}"
