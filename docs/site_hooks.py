"""What mkdocs adds to docs/: documents of the repository's root, and source files behind links.

Pages are written for GitHub: README.md links to docs/NAME.md, and pages to ../yolor_d2/NAME.py. On
the site README.md is the first page, and such a source file is a text file below source/.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Documents outside docs/, and their page.
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "PROVENANCE.md": "PROVENANCE.md",
    "SECURITY.md": "SECURITY.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, page in ROOT_PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    linked = set()
    for file in files.documentation_pages():
        for match in LINK.finditer(file.content_string):
            linked.add(repository_path(file.src_uri, match[2]))
    for path in sorted(linked):
        if is_source(path):
            files.append(File.generated(config, site_path(path), content=source_text(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = page.file.src_uri

    def on_the_site(match: re.Match[str]) -> str:
        path = repository_path(source, match[2])
        target = posixpath.relpath(site_path(path), posixpath.dirname(source) or ".")
        return f"{match[1]}{target}{match[3] or ''}{match[4]}"

    return LINK.sub(on_the_site, markdown)


def repository_path(page: str, target: str) -> str:
    """Where a link of a page leads, from the root of the repository."""
    from_root = page in ROOT_PAGES.values()
    folder = "." if from_root else posixpath.join("docs", posixpath.dirname(page))
    return posixpath.normpath(posixpath.join(folder, target))


def is_source(path: str) -> bool:
    return path not in ROOT_PAGES and not path.startswith("docs/") and (ROOT / path).exists()


def site_path(path: str) -> str:
    """Where the site has a file of the repository."""
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    if is_source(path):
        # Browsers show text and would download .py and .yaml.
        return f"source/{path}.txt"
    return path.removeprefix("docs/")


def source_text(path: str) -> str:
    """The file, or the names of all files of a folder."""
    here = ROOT / path
    if here.is_dir():
        return "\n".join(sorted(str(x.relative_to(ROOT)) for x in here.rglob("*") if x.is_file()))
    return here.read_text(encoding="utf-8")
