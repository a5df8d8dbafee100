"""What the alignment of a trained VSMT says about held-out pairs, where the truth is known."""

from pathlib import Path

import numpy as np
import torch

from restain.data.pairs import PairedTiles
from restain.errors import MissingError
from restain.methods.vsmt import Vsmt
from restain.metrics.displacement import Recovery, recovery
from restain.randomness import generator


def recover_displacement(method: Vsmt, data: Path, seed: int = 0) -> Recovery:
    """Align every held-out pair and compare with the displacement that is known.

    Args:
        method: trained, in evaluation mode, on the CPU.
        data: paired tiles of one size, with `displacement/NAME.npy` beside the folders of their images.
        seed: of the clustering.

    Returns:
        One entry per pair, in the order of their names.

    Raises:
        MissingError: a displacement is missing.
    """
    pairs = PairedTiles(data, "val", grades="none")
    alignments, truths = [], []
    for index, files in enumerate(pairs.files):
        path = files.he.parent.parent / "displacement" / f"{files.name}.npy"
        if not path.is_file():
            raise MissingError(f"{path} does not exist; the displacement of each held-out pair is expected there")
        pair = pairs[index]
        alignments.append(method.align(pair.he, pair.ihc, generator(seed, "alignment", index)))
        truths.append(torch.from_numpy(np.load(path).astype(np.float32)))
    return recovery(torch.cat(alignments), torch.stack(truths), pairs.sizes[0][0])
