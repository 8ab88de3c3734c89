"""What mkdocs calls while it builds the site: pages made from the code are added, links and figures are adapted.

A page of the repository links to files as they lie there, so that it can be read without the site. On the site, a link
to a file outside of `docs` leads to the page that shows this file.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

import generated
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

HOME = Path(__file__).parents[2]
SHOWN = {  # files of the repository that are pages of the site
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CODE_OF_CONDUCT.md": "project/conduct.md",
}
LINK = re.compile(r'(\]\(|(?:href|src)=")([^)"\s#]*)(#[^)"\s]*)?([)"])')
FIGURE = re.compile(r"^!\[([^\]]*)\]\(([\w/-]*figures/[\w-]+\.svg)\)$", re.MULTILINE)
FENCE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that the code gives, those that lie outside of `docs`, and the sources that a page links to."""
    pages = {**generated.pages(), **{uri: (HOME / path).read_text() for path, uri in SHOWN.items()}}
    written = {repository_path(file.src_uri): file.content_string for file in files.documentation_pages()}
    written |= {repository_path(uri): text for uri, text in pages.items()}
    linked = {target for path, text in written.items() for target in _outside(path, text)}
    pages |= {source_page(path): generated.source(path, HOME / path) for path in sorted(linked)}
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to where the site has their targets, and put drawings into the page, where they take its colors."""
    path = repository_path(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        before, target, anchor, after = match.groups(default="")
        found = target and _site_uri(_joined(path, target))
        if not found:
            return match[0]
        relative = posixpath.relpath(found, posixpath.dirname(page.file.src_uri) or ".")
        html = relative.removesuffix(".md") + ".html" if before != "](" and relative.endswith(".md") else relative
        return f"{before}{html}{anchor}{after}"

    def drawn(match: re.Match[str]) -> str:
        svg = (HOME / posixpath.dirname(path) / match[2]).read_text()
        bare = re.sub(r"<style>.*?</style>", "", svg, flags=re.DOTALL)
        return f"<figure>{bare}<figcaption>{match[1]}</figcaption></figure>"

    parts = FENCE.split(FIGURE.sub(drawn, markdown))
    return "".join(part if i % 2 else LINK.sub(moved, part) for i, part in enumerate(parts))


def repository_path(uri: str) -> str:
    """Where the text of a page lies in the repository; pages made from code count as lying in `docs`."""
    return next((path for path, shown in SHOWN.items() if shown == uri), f"docs/{uri}")


def source_page(path: str) -> str:
    """The page that shows a file or folder of the repository."""
    return f"sources/{path}.md"


def _joined(path: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))


def _site_uri(path: str) -> str | None:
    """Where the site has a file of the repository; None if it is not there."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return SHOWN.get(path) or (source_page(path) if (HOME / path).exists() and path != "." else None)


def _outside(path: str, text: str) -> Iterator[str]:
    """The files outside of `docs` that a page links to and that are no pages yet."""
    for match in LINK.finditer(FENCE.sub("", text)):
        target = _joined(path, match[2]) if match[2] and ":" not in match[2] else ""
        if target and not target.startswith(("docs/", "..", ".")) and target not in SHOWN and (HOME / target).exists():
            yield target
            if (HOME / target).is_dir():
                yield from (f"{target}/{one.name}" for one in generated.members(HOME / target))
