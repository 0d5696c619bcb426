"""All checks of one or several data sets, and their results as text and as plain data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..datasets.entries import check_entries
from ..datasets.findings import SEVERITIES, Finding, count_severities
from ..datasets.source import Source
from ..files.values import shorten
from ..wording import counted
from .boxes import InputSettings, check_boxes, check_sizes, check_use
from .files import check_copies, check_files, check_folders
from .keypoints import check_keypoints
from .masks import check_masks


@dataclass
class Report:
    """Findings and statistics of the checked data sets.

    Attributes:
        sources: with their findings.
        statistics: numbers by name of the source.
        images: files that were read.
        seconds: that reading them took.
    """

    sources: Sequence[Source]
    statistics: dict[str, dict] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0

    @property
    def findings(self) -> list[Finding]:
        return [finding for source in self.sources for finding in source.findings]

    def as_record(self) -> dict:
        """Plain data, every offender among them."""
        return {
            "counts": count_severities(self.findings),
            "sources": {
                source.name: {
                    "annotations": str(source.path),
                    "images": str(source.image_root),
                    **self.statistics[source.name],
                }
                for source in self.sources
            },
            "findings": [finding.as_record() for finding in self.findings],
        }

    def as_text(self, examples: int) -> str:
        """A summary: each kind of findings with its number and some examples."""
        lines = []
        for source in self.sources:
            statistics = self.statistics[source.name]
            lines.append(
                f"{source.name}: {source.path} ({counted(statistics['images'], 'image')}, "
                f"{counted(statistics['boxes'], 'box', 'boxes')} to train on, "
                f"{counted(len(source.categories), 'category', 'categories')})"
            )
            lines += self.describe_statistics(statistics)
            lines += describe_findings(source.findings, examples)
        counts = count_severities(self.findings)
        lines.append(", ".join(counted(count, name) for name, count in counts.items()))
        if self.images:
            lines.append(
                f"{counted(self.images, 'image')} read in {self.seconds:.1f} s, "
                f"{self.images / max(self.seconds, 1e-9):.0f} a second"
            )
        return "\n".join(lines)

    @staticmethod
    def describe_statistics(statistics: dict) -> list[str]:
        """Boxes by category, what else objects have, and their sizes."""
        named = [
            f"{name} {count}" for name, count in statistics["boxes_by_category"].items() if count
        ]
        lines = [" ".join(f"  boxes: {', '.join(named) or 'none'}".split("\n"))]
        more = [
            f"{counted(statistics[key], 'object')} with {key}"
            for key in ("masks", "keypoints")
            if statistics[key]
        ]
        lines += [f"  {', '.join(more)}"] if more else []
        sizes = statistics["sizes"]
        if sizes:
            by_stride = ", ".join(
                f"{stride}: {100 * fraction:.1f} %"
                for stride, fraction in sizes["share_matched_by_stride"].items()
            )
            width, height = sizes["width_percentiles"], sizes["height_percentiles"]
            lines += [
                f"  sizes at {sizes['input_size']} pixels: median {width['50']:.0f} x "
                f"{height['50']:.0f}, smallest sides {width['0']:.1f} and {height['0']:.1f}; "
                f"{100 * sizes['share_below_finest_stride']:.1f} % below the finest stride",
                f"  anchors: {100 * sizes['best_possible_recall']:.2f} % of the boxes match one "
                f"(by stride: {by_stride})",
            ]
        return lines


def describe_findings(findings: Sequence[Finding], examples: int) -> list[str]:
    """Kinds from errors to notices, each with its number and examples."""
    by_kind: dict[str, list[Finding]] = {}
    for finding in findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    lines = []
    for kind, same_kind in sorted(
        by_kind.items(), key=lambda item: SEVERITIES.index(item[1][0].severity)
    ):
        lines.append(f"  {same_kind[0].severity}: {kind} ({len(same_kind)})")
        lines += [f"    {finding.describe()}" for finding in same_kind[:examples]]
        if len(same_kind) > examples:
            lines.append(f"    ... and {len(same_kind) - examples} more")
    return lines


def check_categories_agree(sources: Sequence[Source]) -> None:
    """Report data sets whose categories are not those of the first."""

    def categories(source: Source) -> dict[int, str]:
        entries = source.data["categories"]
        return {number: entries[place]["name"] for number, place in source.categories.items()}

    expected = categories(sources[0])
    names = names_of_points(sources[0])
    for source in sources[1:]:
        others = names_of_points(source)
        if names and others and others != names:
            message = f"points are {shorten(others)}, those of {sources[0].name!r} {shorten(names)}"
            source.report("keypoint_names_differ", message)
        present = categories(source)
        odd = [
            f"{number}: {present.get(number)!r} in place of {expected.get(number)!r}"
            for number in sorted({*present, *expected})
            if present.get(number) != expected.get(number)
        ]
        if odd:
            more = ", ..." if len(odd) > 3 else ""
            message = f"categories are not those of {sources[0].name!r}: {', '.join(odd[:3])}{more}"
            source.report("categories_differ", message)


def names_of_points(source: Source) -> object:
    """Names of the points of the first category that has some, unchanged."""
    entries = [source.data["categories"][place] for place in source.categories.values()]
    return next((x["keypoints"] for x in entries if x.get("keypoints")), None)


def check_sources(
    sources: Sequence[Source],
    *,
    settings: InputSettings | None = None,
    channels: int = 3,
    workers: int = 1,
    read_images: bool = True,
    progress: bool = False,
) -> Report:
    """Check data sets: their entries, what these say of objects, their images, and against each
    other.

    Args:
        sources: as they are read; their findings are added. The first is that to train on.
        settings: of the network's input; None leaves out what depends on it.
        channels: that the network takes.
        workers: processes that read images.
        read_images: also look at the image files.
        progress: show a bar.
    """
    report = Report(sources)
    facts = []
    for source in sources:
        check_entries(source)
        if read_images:
            start = time.perf_counter()
            source_facts = check_files(
                source,
                workers=workers,
                channels=channels,
                input_size=settings.size if settings else 0,
                least_side=min(settings.strides) if settings else 0,
                progress=progress,
            )
            facts.append(source_facts)
            report.images += len(source_facts)
            report.seconds += time.perf_counter() - start
        usable = check_boxes(source)
        by_category = check_use(source, usable)
        report.statistics[source.name] = {
            "images": len(source.images),
            "boxes": int(np.count_nonzero(usable)),
            "boxes_by_category": by_category,
            "masks": check_masks(source),
            "keypoints": check_keypoints(source),
            "sizes": check_sizes(source, usable, settings) if settings else {},
        }
    check_categories_agree(sources)
    if read_images:
        check_folders(sources)
        check_copies(sources, facts)
    return report
