"""Trust maps for images, in the folder `trust` beside their results."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from restain.folders import trust_map
from restain.image import RGB, save_image, to_tensor
from restain.metrics.trust import TABLE, read_trust_table, trust_row, write_trust_table
from restain.staining.inputs import ImageJob
from restain.stains import to_unit
from restain.trust.disagreement import Stain, disagreement, under_symmetries
from restain.trust.familiarity import BLOCK_PX, Familiarity
from restain.trust.maps import made_with, paint_disagreement


@dataclass
class ImageMaps:
    """Draws a map of each image as it is stained: pass `add` to `stain_files`, then `save` the tables."""

    stain: Stain
    """How images are stained, with a norm policy that does not depend on position, so not `dense`."""
    familiarity: Familiarity | None
    """The model's calibration."""
    _shares: dict[Path, list[tuple[str, float]]] = field(default_factory=dict)

    def add(self, job: ImageJob, he: RGB, virtual: RGB) -> None:
        """Draw the map of an image, with seven more passes.

        Args:
            job: the image and its result.
            he: H x W x 3.
            virtual: likewise.

        Raises:
            OutputError: the map cannot be written.
        """
        spread = disagreement(under_symmetries(self.stain, he, virtual))
        unlike, share = None, math.nan
        if self.familiarity is not None and min(he.shape[:2]) >= BLOCK_PX:
            unlike = self.familiarity.unlike(to_unit(to_tensor(np.ascontiguousarray(he))))[0].numpy()
            share = float(unlike.mean())
        path = trust_map(job.target)
        save_image(path, paint_disagreement(spread, unlike, BLOCK_PX))
        self._shares.setdefault(path.parent / TABLE, []).append((job.target.stem, share))

    def save(self) -> list[Path]:
        """Write the table of each folder, keeping the rows of other images; returns the tables.

        Raises:
            OutputError: one cannot be written.
        """
        for table, shares in self._shares.items():
            key = made_with(self.familiarity)
            rows = read_trust_table(table) | {name: trust_row(name, share, key) for name, share in shares}
            write_trust_table(table, (rows[name] for name in sorted(rows)))
        return list(self._shares)
