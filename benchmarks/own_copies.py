"""Pairs that deduplication takes for copies in CIFAR-10 where nothing was planted: are they?

Somebody has to look. `python -m benchmarks.own_copies --sheet FOLDER` curates 24,000 images of CIFAR-10 as they are,
draws a hundred of the accepted pairs at random as pictures into the folder, and lists their ids in `pairs.csv`. The
verdicts are in `benchmarks/judged_pairs.csv`: `same` (the same photo: cropped, encoded, coloured or written on),
`doubtful`, `other`. Without an option it reports the share of the judged pairs that are the same, with its interval.
Not one of the numbered targets.
"""

import csv
import hashlib
import io
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.curation_quality import SETS, InMemory, members, verdicts
from benchmarks.report import report
from benchmarks.workbench import real_data
from components.curation.candidates import Search, candidate_pairs
from components.curation.copies import FINE_SIDE, Copies, compare
from components.curation.deduplication import DedupParams, copy_components
from components.curation.embedder import BUILTIN, EmbedderLock
from components.curation.embedding import Describe
from components.data.decoding import decode_rgb
from components.data.phash import phash
from components.features.descriptor import descriptor_name
from components.features.thumbnails import load_thumbnails

LOOKED_AT = 100
SHOWN = 96
"""Side of a picture on the sheet, pixels."""
ACROSS = 10
BOUND = 0.99
SURE = 1.96
"""Quantile of an interval of 95 %."""


def main() -> None:
    """Draws, or reports."""
    if "--sheet" in sys.argv:
        draw(Path(sys.argv[sys.argv.index("--sheet") + 1]))
        return
    judged = verdicts()
    counts = {verdict: judged.count(verdict) for verdict in ("same", "doubtful", "other")}
    low, high = wilson(counts["same"], len(judged))
    report(
        "own copies",
        "share of the pairs accepted in CIFAR-10 as it is that show the same photo, judged by eye",
        ratio=counts["same"] / len(judged),
        bound=f">= {BOUND}",
        holds=counts["same"] / len(judged) >= BOUND,
        figures={"judged": len(judged), **counts, "interval": [round(low, 3), round(high, 3)]},
        name="own_copies",
    )


def draw(folder: Path) -> None:
    """The sample, the least sure first."""
    files, evaluation = images()
    ids = sorted(files)
    found = accepted(files, ids, np.array([one in evaluation for one in ids]))
    rows = np.random.default_rng(0).permutation(len(found.pairs))[:LOOKED_AT]
    rows = rows[np.argsort(found.agreement[rows])]
    folder.mkdir(parents=True, exist_ok=True)
    sheet = Image.new("RGB", (ACROSS * (2 * SHOWN + 12), -(-len(rows) // ACROSS) * (SHOWN + 16)), "white")
    text = ImageDraw.Draw(sheet)
    with (folder / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("first", "second", "agreement", "verdict"))
        for number, row in enumerate(rows.tolist()):
            pair = [ids[one] for one in found.pairs[row]]
            table.writerow((*pair, f"{found.agreement[row]:.3f}", ""))
            x, y = number % ACROSS * (2 * SHOWN + 12), number // ACROSS * (SHOWN + 16)
            for side, one in enumerate(pair):
                picture = decode_rgb(files[one]).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)
                if side and found.mirrored[row]:
                    picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                sheet.paste(picture, (x + side * SHOWN, y))
            text.text((x, y + SHOWN + 1), f"{number} {found.agreement[row]:.2f}", fill="black")
    sheet.save(folder / "pairs.png")
    print(f"{len(found.pairs)} pairs; look at {folder / 'pairs.png'}, and fill in {folder / 'pairs.csv'}")


def images() -> tuple[dict[str, bytes], set[str]]:
    """Bytes by id, and which are of the evaluation part."""
    files: dict[str, bytes] = {}
    evaluation: set[str] = set()
    for part, name in zip(("train", "eval"), SETS["cifar10"][:2], strict=True):
        for _, data in members(real_data() / str(name)):
            one = hashlib.sha256(data).hexdigest()
            files[one] = data
            if part == "eval":
                evaluation.add(one)
    return files, evaluation


def accepted(files: dict[str, bytes], ids: list[str], evaluation: np.ndarray) -> Copies:
    """The pairs that connect components, by the built-in descriptor and the defaults."""
    params, reader = DedupParams(), InMemory(files)
    vectors = Describe(EmbedderLock(BUILTIN, descriptor_name(), ""), reader, 256, "cpu")(ids)
    hashes = np.array([phash(Image.open(io.BytesIO(files[one]))) for one in ids], np.uint64)
    search = Search(params.exact_up_to, params.probes)
    candidates = candidate_pairs(
        [vectors],
        hashes,
        evaluation[None],
        neighbours=params.neighbours,
        hash_distance=params.hash_distance,
        search=search,
    )
    copies = compare(
        load_thumbnails(reader, ids),
        candidates.pairs,
        lambda rows: load_thumbnails(reader, [ids[row] for row in rows], side=FINE_SIDE),
        least=params.least,
    )
    _, chosen = copy_components(copies, params.threshold, np.where(evaluation, params.leak_threshold, 2.0))
    return Copies(copies.pairs[chosen], copies.agreement[chosen], copies.mirrored[chosen])


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Interval of a share (Wilson, "Probable inference", 1927)."""
    share, weight = successes / trials, SURE**2 / trials
    centre = (share + weight / 2) / (1 + weight)
    half = SURE * math.sqrt(share * (1 - share) / trials + weight / (4 * trials)) / (1 + weight)
    return centre - half, centre + half


if __name__ == "__main__":
    main()
