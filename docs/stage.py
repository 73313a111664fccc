"""Lay out in `build/docs` what the site is built from; `make docs` runs this, then MkDocs.

It is the documents at their places in the repository, the files that they link to, and the
reference made from the code.

The layout is the repository's, so that a link which works on a code forge works on the site.
"""

import re
import shutil
from pathlib import Path

import reference

ROOT = Path(__file__).parents[1]
STAGE = ROOT / "build" / "docs"
# The first page of the site, and what is reached from the documents.
DOCUMENTS = (
    "README.md",
    "CHANGELOG.md",
    "docs/*.md",
    "deploy/README.md",
    "examples/**/*.md",
    "tests/data/loops/README.md",
)
_LINK = re.compile(r"(?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s#]+)(#[^)\s]*)?\)")


def main() -> None:
    """Make `build/docs` anew."""
    shutil.rmtree(STAGE, ignore_errors=True)
    documents = [path for pattern in DOCUMENTS for path in sorted(ROOT.glob(pattern)) if is_page(path)]
    for document in documents:
        place = STAGE / document.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(_LINK.sub(lambda link, page=document: _kept(link, page), document.read_text()))
    for name, text in reference.pages().items():
        page = STAGE / "docs" / "reference" / name
        page.parent.mkdir(exist_ok=True)
        page.write_text(text)


def is_page(path: Path) -> bool:
    """Whether it is for readers: roles are Markdown too, with front matter that is not the site's."""
    return not path.read_text().startswith("---\n")


def _kept(link: re.Match[str], page: Path) -> str:
    """The link, and what it leads to copied: a folder is a page that lists it."""
    target = (page.parent / link[1]).resolve()
    if re.match(r"[a-z]+:", link[1]) or not target.is_relative_to(ROOT) or not target.exists():
        return link[0]
    place = STAGE / target.relative_to(ROOT)
    if target.is_dir():
        files = sorted(file.name for file in target.iterdir() if file.is_file())
        place.mkdir(parents=True, exist_ok=True)
        listing = f"# {target.relative_to(ROOT)}\n\n" + "".join(f"- [{name}]({name})\n" for name in files)
        (place / "index.md").write_text(listing)
        for name in files:
            shutil.copyfile(target / name, place / name)
        return link[0].replace(f"({link[1]}", f"({link[1].rstrip('/')}/index.md")
    if not (target.suffix == ".md" and is_page(target)):
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(target, place)
    return link[0]


if __name__ == "__main__":
    main()
